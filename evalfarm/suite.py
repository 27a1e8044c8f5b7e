"""A suite: what is asked of every checkpoint, so that the answers compare."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cluster.config import to_dict
from cluster.run_folder import fingerprint
from evalfarm.references import RealPictures

SIDE_MULTIPLE_PX = 8


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a picture should show."""

    text: str
    """Words that should be legible stand in single quotes, as in MARIO-Eval."""
    group: str = ""
    """What its numbers are also summed up by: a subset, a style, a category."""
    target: Path | None = None
    """The real picture that paired metrics compare with."""
    has_real: bool = True
    """Whether the suite's real pictures are of its kind: else it is in no distance to them."""
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

    sampler: Literal["ddim", "pndm", "euler", "dpmsolver++"] = "ddim"
    """How the noise is taken away; none of these adds any on the way."""
    sampler_steps: int = 50
    """Denoising steps."""
    guidance: float = 7.5
    """Classifier-free guidance; 1 is without."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    height: int = 512
    """Pixels, a multiple of 8."""
    width: int = 512
    """Pixels, a multiple of 8."""
    seed: int = 0
    """The noise of a picture is a function of this, its prompt's number and its sample's."""

    def __post_init__(self) -> None:
        for name in ("sampler_steps", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("height", "width"):
            if getattr(self, name) % SIDE_MULTIPLE_PX:
                raise ValueError(f"{name} must be a multiple of 8, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A grid of 2 x 2 blocks for each checkpoint: the picture of a prompt and three fillers."""

    filler_folder: Path | None = None
    """Pictures that fill the blocks, in order and again from the first."""
    filler_prompts: tuple[str, ...] = ()
    """Else prompts whose pictures fill them; they are made with the others, and not scored."""

    def __post_init__(self) -> None:
        if (self.filler_folder is None) != bool(self.filler_prompts):
            raise ValueError("blocks are filled from filler_folder or filler_prompts: give one")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite with its prompts at hand."""

    name: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    metrics: tuple[str, ...]
    samples_per_prompt: int = 1
    references: RealPictures | None = None
    """Real pictures of the suite's own."""
    blocks: Blocks | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what decides the pictures and what each is compared with.

        Neither the metrics do, nor where anything lies.
        """
        deciding = {
            "prompts": [
                [p.text, p.filler, p.has_real, p.target and fingerprint(p.target)["sha256"]]
                for p in self.prompts
            ],
            "samples_per_prompt": self.samples_per_prompt,
            **to_dict(self.sampling),
        }
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    @cached_property
    def has_real(self) -> NDArray[np.bool_]:
        """By prompt, whether distances to the real pictures are taken of its pictures."""
        return np.array([prompt.has_real for prompt in self.prompts])

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
