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
class Suite:
    """Prompts, how pictures are made of them, and what is measured.

    Adding one is adding a file. All keys but `metrics` go into its digest: pictures of another
    digest are never mixed in.
    """

    name: str
    """Also the folder under RUN/eval."""
    prompts: tuple[str, ...]
    """Words that should be legible stand in single quotes, as in MARIO-Eval."""
    metrics: tuple[str, ...]
    """Names from evalfarm/metrics."""
    samples_per_prompt: int = 1
    """Pictures of each prompt, from different noise."""
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
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name {self.name!r} must be letters, digits, _ and -")
        for name in ("prompts", "metrics"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one")
        for name in ("samples_per_prompt", "sampler_steps", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides what the pictures are."""
        deciding = {key: value for key, value in to_dict(self).items() if key != "metrics"}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def pairs(self) -> list[tuple[int, int]]:
        """Every (prompt number, sample number), in order."""
        samples = range(self.samples_per_prompt)
        return [(prompt, sample) for prompt in range(len(self.prompts)) for sample in samples]


def quoted_words(prompt: str) -> list[str]:
    """The words that a picture of `prompt` should show, in lower case.

    MARIO-Eval's rule (TextDiffuser, Chen et al. 2023): what is in single quotes, split at blanks.
    """
    found = re.findall(r"'(.*?)'", prompt.strip().lower())
    return [word for quoted in found for word in quoted.split()]


def load_suite(name: str) -> Suite:
    """The suite of that name, or in the YAML file of that path; ValueError says which there are."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        folder = Path(str(files("evalfarm"))) / "suites"
        path = folder / f"{name}.yaml"
        if not path.is_file():
            names = sorted(found.stem for found in folder.glob("*.yaml"))
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
            raise ValueError(f"there is no suite {name}: {hint}")
    return build(Suite, read_yaml(path), f"suite {path.stem}")
