"""Reading and writing the configs of every program here: YAML in, frozen dataclasses out.

jsonargparse checks and converts the values; the walk over the keys is ours, so that each mistake is
one line that names the dotted key, what was given and what is allowed.
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentError, ArgumentParser

Config = TypeVar("Config")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; ValueError if there is none."""
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold `key: value` lines, got {type(data).__name__}")
    return data


def add_set_option(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Give a program `--set KEY=VALUE …`, as often as one likes; `set_keys` applies them."""
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=help_text
    )


def set_keys(data: dict[str, Any], assignments: Iterable[str]) -> None:
    """Change `data` by each `key=value`, in order; ValueError as of `set_key`."""
    for assignment in assignments:
        set_key(data, assignment)


def set_key(data: dict[str, Any], assignment: str) -> None:
    """Apply `a.b=value` to nested `data`; the value is read as YAML."""
    key, equals, value = assignment.partition("=")
    if not (key and equals):
        raise ValueError(f"--set takes key=value, such as train.steps=200, got {assignment!r}")
    *groups, last = key.strip().split(".")
    for group in groups:
        if not isinstance(data.setdefault(group, {}), dict):
            data[group] = {}  # a group that was off (null) is switched on by naming its keys
        data = data[group]
    data[last] = yaml.safe_load(value)


def build(config_type: type[Config], data: Mapping[str, Any], where: str = "") -> Config:
    """Make a `config_type` of nested `data`; a mistake is a ValueError of one line.

    `where` is the dotted key at which `data` stands in its file, for the messages.
    """
    hints = _hints(config_type)
    _check_keys(hints, data, where)
    plain = {key: value for key, value in data.items() if _group_type(hints[key]) is None}
    values = _convert(config_type, plain, where)
    for key, hint in hints.items():
        group = _group_type(hint)
        if group is not None and data.get(key) is not None:
            if not isinstance(data[key], Mapping):
                raise ValueError(f"{_dotted(where, key)} takes keys of its own, got {data[key]!r}")
            values[key] = build(group, data[key], _dotted(where, key))
        elif key in data and data[key] is None and not _takes_none(hint):
            raise ValueError(f"{_dotted(where, key)} has no value")
    try:
        return config_type(**values)
    except TypeError:  # a required group is not there
        lacking = [f.name for f in fields(config_type) if f.name not in values]  # type: ignore[arg-type]
        raise ValueError(f"{_dotted(where, lacking[0])} is missing") from None
    except ValueError as error:  # from the config's own __post_init__
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def absolute_paths(config: Config) -> Config:
    """The config with every Path in it absolute, so that it means the same in any folder."""
    assert is_dataclass(config)
    values = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    changes: dict[str, Any] = {
        name: value.absolute() if isinstance(value, Path) else absolute_paths(value)
        for name, value in values.items()
        if isinstance(value, Path) or is_dataclass(value)
    }
    return replace(config, **changes)  # type: ignore[type-var]


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain values that YAML and JSON can hold, every default spelled out."""
    plain = _plain(asdict(config))
    assert isinstance(plain, dict)
    return plain


def to_yaml(config: Any) -> str:
    """The config as YAML, keys in the order of their declaration."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=100)


def describe(config_type: type[Any], section: str = "", prefix: str = "") -> str:
    """A page of help: the keys that start with `prefix`, with type, default and meaning."""
    lines = []
    for key, hint, default, meaning in _documented_keys(config_type, section):
        if key.startswith(prefix):
            shown = "" if default is MISSING else f" = {_plain(default)!r}"
            lines.append(f"{key}: {_type_name(hint)}{shown}\n    {meaning}")
    return "\n".join(lines)


def _check_keys(hints: Mapping[str, Any], data: Mapping[str, Any], where: str) -> None:
    for key in data:
        if key not in hints:
            close = get_close_matches(str(key), hints, n=1) or _one_level_down(hints, str(key))
            hint = (
                f"did you mean {_dotted(where, close[0])}?"
                if close
                else f"choose from {', '.join(hints)}"
            )
            raise ValueError(f"{_dotted(where, str(key))} is not a key: {hint}")


def _one_level_down(hints: Mapping[str, Any], key: str) -> list[str]:
    """Where a key would belong whose first part was left out: train.optim, given optim."""
    groups = {name: group for name, hint in hints.items() if (group := _group_type(hint))}
    return [f"{name}.{key}" for name, group in groups.items() if key in _hints(group)]


def _convert(config_type: type[Any], plain: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check and convert the values that are not groups; those left out stay left out."""
    groups = {key for key, hint in _hints(config_type).items() if _group_type(hint) is not None}
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(config_type, skip=groups)
    try:
        parsed = parser.parse_object(dict(plain))
    except ArgumentError as error:
        raise ValueError(_one_line(str(error), where)) from None
    return {key: parsed[key] for key in plain}


def _one_line(message: str, where: str) -> str:
    required = re.search(r"arguments are required: (.*)", message)
    if required:
        return f"{_dotted(where, required[1].split(',')[0].strip())} is missing"
    found = re.search(r'Parser key "([^"]+)":\s*(.*)', message, re.DOTALL)
    if not found:
        return f"{where}: {' '.join(message.split())}"
    reason = re.sub(r"typing\.|<class '(\w+)'>", lambda m: m[1] or "", found[2])
    reason = (
        " ".join(reason.split())
        .replace("Expected a ", "expected ")
        .replace(". Got value: ", ", got ")
    )
    return f"{_dotted(where, found[1])}: {reason}"


def _hints(config_type: type[Any]) -> dict[str, Any]:
    assert is_dataclass(config_type), config_type
    hints = get_type_hints(config_type)
    return {field.name: hints[field.name] for field in fields(config_type)}


def _group_type(hint: Any) -> type[Any] | None:
    """The dataclass that a hint names, alone or as `X | None`."""
    found = [option for option in (get_args(hint) or (hint,)) if is_dataclass(option)]
    return found[0] if found and isinstance(found[0], type) else None


def _takes_none(hint: Any) -> bool:
    return NoneType in get_args(hint)


def _documented_keys(config_type: type[Any], section: str) -> Iterator[tuple[str, Any, Any, str]]:
    """(dotted key, type, default, meaning) of every key, groups before what is in them."""
    # parse_from_object reads the strings that stand under the fields, of one class alone.
    kinds = [kind for kind in reversed(config_type.__mro__) if is_dataclass(kind)]
    meanings = {p.arg_name: p.description or "" for k in kinds for p in parse_from_object(k).params}
    for entry in fields(config_type):
        hint = _hints(config_type)[entry.name]
        key, group = _dotted(section, entry.name), _group_type(hint)
        if group is None:
            yield key, hint, entry.default, meanings.get(entry.name, "")
        else:
            meaning = meanings.get(entry.name) or (group.__doc__ or "").strip()
            yield key, hint, None if entry.default is None else MISSING, meaning
            yield from _documented_keys(group, key)


def _type_name(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return re.sub(r"\b(?:[a-z_]+\.)+", "", name).replace("NoneType", "None")


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
