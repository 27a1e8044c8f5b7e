"""A suite: what is asked of every checkpoint, so that the answers compare."""

import hashlib
import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from cluster.config import build, read_yaml, to_dict


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a picture should show."""

    text: str
    """Words that should be legible stand in single quotes, as in MARIO-Eval."""
    group: str = ""
    """What its numbers are also summed up by: a subset, a style, a category."""
    target: Path | None = None
    """The real picture that paired metrics compare with."""
    filler: bool = False
    """Made, but not scored: it only fills a grid."""

    @property
    def words(self) -> list[str]:
        """The words that should be legible, in lower case."""
        return quoted_words(self.text)


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture that is to be made."""

    prompt: int
    """Its prompt's number in the suite."""
    sample: int
    """Its number among the pictures of the prompt."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are made of prompts."""

    sampler_steps: int = 50
    """Denoising steps of DDIM."""
    guidance: float = 7.5
    """Classifier-free guidance; 1 is without."""
    height: int = 512
    """Pixels."""
    width: int = 512
    """Pixels."""
    seed: int = 0
    """The noise of a picture is a function of this, its prompt's number and its sample's."""

    def __post_init__(self) -> None:
        for name in ("sampler_steps", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(Sampling):
    """A suite's file: prompts, how pictures are made of them, and what is measured.

    Adding one is adding a file.
    """

    name: str
    """Also the folder under RUN/eval."""
    prompts: tuple[str, ...]
    """Words that should be legible stand in single quotes, as in MARIO-Eval."""
    metrics: tuple[str, ...]
    """Names from evalfarm/metrics, a mode after a slash: `ocr`, `fid/clean`."""
    samples_per_prompt: int = 1
    """Pictures of each prompt, from different noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name {self.name!r} must be letters, digits, _ and -")
        for name in ("prompts", "metrics"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one")
        if self.samples_per_prompt < 1:
            raise ValueError(
                f"samples_per_prompt must be at least 1, got {self.samples_per_prompt}"
            )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite with its prompts at hand."""

    name: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    metrics: tuple[str, ...]
    samples_per_prompt: int = 1
    references: Path | None = None
    """Tar or folder of real pictures, of the suite's own."""

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides what the pictures are; the metrics do not."""
        deciding = {
            "prompts": [prompt.text for prompt in self.prompts],
            "samples_per_prompt": self.samples_per_prompt,
            **to_dict(self.sampling),
        }
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def items(self) -> list[Item]:
        """Every picture of a checkpoint, in order."""
        return [
            Item(prompt=number, sample=sample, text=prompt.text)
            for number, prompt in enumerate(self.prompts)
            for sample in range(self.samples_per_prompt)
        ]


def quoted_words(prompt: str) -> list[str]:
    """The words that a picture of `prompt` should show, in lower case.

    MARIO-Eval's rule (TextDiffuser, Chen et al. 2023): what is in single quotes, split at blanks.
    """
    found = re.findall(r"'(.*?)'", prompt.strip().lower())
    return [word for quoted in found for word in quoted.split()]


def load_suite(name: str, data: Path = Path()) -> Suite:
    """The suite of that name, or in the YAML file of that path; ValueError says which there are.

    `data` is the folder of the published prompts and pictures that a suite may name.
    """
    path = suite_file(name)
    config = build(SuiteConfig, read_yaml(path), f"suite {path.stem}")
    sampling = {key: getattr(config, key) for key in Sampling.__dataclass_fields__}
    return Suite(
        name=config.name,
        prompts=tuple(Prompt(text=text) for text in config.prompts),
        sampling=Sampling(**sampling),
        metrics=config.metrics,
        samples_per_prompt=config.samples_per_prompt,
    )


def suite_file(name: str) -> Path:
    """The YAML file of a suite, by its name or path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    folder = Path(str(files("evalfarm"))) / "suites"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(found.stem for found in folder.glob("*.yaml"))
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
        raise ValueError(f"there is no suite {name}: {hint}")
    return path
