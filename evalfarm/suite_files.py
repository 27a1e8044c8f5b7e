"""Suites as YAML files: adding one is adding a file."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from cluster.config import build, read_yaml
from evalfarm.prompt_sets import (
    HpsPrompts,
    ImageFolder,
    MarioEval,
    PartiPrompts,
    PromptLines,
    PromptSet,
    existing,
)
from evalfarm.suite import Blocks, Prompt, Sampling, Suite

PROMPT_SETS = ("mario", "parti", "hpsv2", "imagefolder", "lines")
NO_DATA = Path()


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(Sampling):
    """A suite's file: prompts, how pictures are made of them, and what is measured.

    The prompts stand in it, or are a published set that lies in `eval.suite_data`.
    """

    name: str
    """Also the folder under RUN/eval."""
    metrics: tuple[str, ...]
    """Names from evalfarm/metrics, a mode after a slash: `ocr`, `fid/clean`."""
    prompts: tuple[str, ...] = ()
    """Words that should be legible stand in single quotes, as in MARIO-Eval."""
    mario: MarioEval | None = None
    parti: PartiPrompts | None = None
    hpsv2: HpsPrompts | None = None
    imagefolder: ImageFolder | None = None
    lines: PromptLines | None = None
    samples_per_prompt: int = 1
    """Pictures of each prompt, from different noise."""
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name {self.name!r} must be letters, digits, _ and -")
        if not self.metrics:
            raise ValueError("metrics must hold at least one")
        given = [key for key in ("prompts", *PROMPT_SETS) if getattr(self, key)]
        if not given:
            raise ValueError(
                f"prompts must hold at least one, or name a set: {', '.join(PROMPT_SETS)}"
            )
        if len(given) > 1:
            raise ValueError(f"prompts come from one place, got {' and '.join(given)}")
        if self.samples_per_prompt < 1:
            raise ValueError(
                f"samples_per_prompt must be at least 1, got {self.samples_per_prompt}"
            )

    @property
    def prompt_set(self) -> PromptSet | None:
        """The published set that the prompts are; None if they stand in the file."""
        return next((found for key in PROMPT_SETS if (found := getattr(self, key))), None)


def load_suite(name: str, data: Path = NO_DATA) -> Suite:
    """The suite of that name, or in the YAML file of that path; ValueError says which there are.

    `data` is the folder of the published prompts and pictures that a suite may name. ValueError if
    those that this one does are not there.
    """
    return with_prompts(read_suite(name), data)


def read_suite(name: str) -> SuiteConfig:
    """What a suite's file says, whether its prompts are at hand or not."""
    path = suite_file(name)
    return build(SuiteConfig, read_yaml(path), f"suite {path.stem}")


def with_prompts(config: SuiteConfig, data: Path) -> Suite:
    """The suite with the prompts that its file names."""
    try:
        asked, blocks = _prompts(config, data), _with_fillers(config, data)
    except ValueError as error:
        raise ValueError(f"suite {config.name}: {error}") from None
    fillers = blocks.filler_prompts if blocks else ()
    return Suite(
        name=config.name,
        prompts=(*asked, *(Prompt(text=text, filler=True) for text in fillers)),
        sampling=Sampling(**{key: getattr(config, key) for key in Sampling.__dataclass_fields__}),
        metrics=config.metrics,
        samples_per_prompt=config.samples_per_prompt,
        references=config.prompt_set.references(data) if config.prompt_set else None,
        blocks=blocks,
    )


def suite_names() -> list[str]:
    """The suites that come with Letterpress."""
    return sorted(found.stem for found in _folder().glob("*.yaml"))


def suite_file(name: str) -> Path:
    """The YAML file of a suite, by its name or path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    path = _folder() / f"{name}.yaml"
    if not path.is_file():
        names = suite_names()
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
        raise ValueError(f"there is no suite {name}: {hint}")
    return path


def _prompts(config: SuiteConfig, data: Path) -> list[Prompt]:
    if config.prompt_set is None:
        return [Prompt(text=text) for text in config.prompts]
    return config.prompt_set.prompts(data)


def _with_fillers(config: SuiteConfig, data: Path) -> Blocks | None:
    if config.blocks is None or config.blocks.filler_folder is None:
        return config.blocks
    folder = existing(data / config.blocks.filler_folder, "the folder of pictures that fill blocks")
    return replace(config.blocks, filler_folder=folder)


def _folder() -> Path:
    return Path(str(files("evalfarm"))) / "suites"
