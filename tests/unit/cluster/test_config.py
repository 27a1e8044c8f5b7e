"""Configs: what a user may write, and what a mistake is answered with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from cluster.config import build, describe, read_yaml, set_key, to_yaml


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The engine."""

    power: float = 1.5
    """Horses."""
    fuel: Literal["coal", "wood"] = "coal"
    stages: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"power must be positive, got {self.power}")


@dataclass(frozen=True, kw_only=True)
class Tender:
    litres: int


@dataclass(frozen=True, kw_only=True)
class Train:
    name: str
    """What it is called."""
    engine: Engine = field(default_factory=Engine)
    tender: Tender | None = None
    track: Path | None = None


def test_a_full_config_survives_the_way_to_yaml_and_back() -> None:
    train = Train(name="Rocket", engine=Engine(power=12, fuel="wood"), tender=Tender(litres=9))
    assert build(Train, yaml.safe_load(to_yaml(train))) == train


def test_every_default_is_spelled_out() -> None:
    assert yaml.safe_load(to_yaml(Train(name="Rocket"))) == {
        "name": "Rocket",
        "engine": {"power": 1.5, "fuel": "coal", "stages": [1, 2]},
        "tender": None,
        "track": None,
    }


def test_numbers_that_yaml_takes_for_text_are_numbers() -> None:
    assert build(Train, yaml.safe_load("{name: a, engine: {power: 1e-4}}")).engine.power == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: a, engin: {}}", "engin is not a key: did you mean engine?"),
        ("{name: a, engine: {powr: 2}}", "engine.powr is not a key: did you mean engine.power?"),
        ("{name: a, tender: {xyz: 2}}", "tender.xyz is not a key: choose from litres"),
        ("{name: a, engine: {power: four}}", "engine.power: expected float, got four"),
        (
            "{name: a, engine: {fuel: gas}}",
            "engine.fuel: expected Literal['coal', 'wood'], got gas",
        ),
        ("{name: a, engine: {power: -1}}", "engine: power must be positive, got -1.0"),
        ("{name: a, engine: 3}", "engine takes keys of its own, got 3"),
        ("{name: a, tender: {}}", "tender.litres is missing"),
        ("{engine: {}}", "name is missing"),
        ("{name: null}", "name is missing"),
        ("{name: a, engine: {power: null}}", "engine.power has no value"),
    ],
)
def test_a_mistake_is_one_line_with_the_dotted_key(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared
        build(Train, yaml.safe_load(text))
    assert str(caught.value) == message


def test_setting_a_key_reads_its_value_as_yaml_and_makes_its_groups() -> None:
    data: dict[str, Any] = {"tender": None}
    for assignment in ("name=Rocket", "tender.litres=7", "engine.stages=[3, 4]"):
        set_key(data, assignment)
    assert build(Train, data) == Train(
        name="Rocket", tender=Tender(litres=7), engine=Engine(stages=(3, 4))
    )


def test_setting_without_a_value_says_how() -> None:
    with pytest.raises(ValueError, match="--set takes key=value"):
        set_key({}, "name")


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a", "must hold `key: value` lines, got list"), ("a: [", "cannot be read")],
)
def test_a_file_that_is_no_mapping_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml does not exist"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_the_help_page_gives_type_default_and_meaning() -> None:
    page = describe(Train)
    assert "name: str\n    What it is called." in page
    assert "engine.power: float = 1.5\n    Horses." in page
    assert "engine.fuel: Literal['coal', 'wood'] = 'coal'" in page


def test_the_help_page_tells_the_meaning_of_inherited_keys_too() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Locomotive(Engine):
        wheels: int = 4
        """Pairs."""

    page = describe(Locomotive)
    assert "power: float = 1.5\n    Horses." in page
    assert "wheels: int = 4\n    Pairs." in page
