"""What training samples are made of, and from what. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Face = Literal["sans", "serif", "round", "book", "hand"]
Background = Literal["plain", "gradient", "speckled"]


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """Synthetic pictures of words (trainer/data/words.py)."""

    samples: int
    """Pictures to draw."""
    seed: int = 0
    """Another seed, other pictures."""
    split: Literal["train", "held_out"] = "train"
    """Which words of the list: those to train on, or the eighth that no recipe trains on."""
    min_letters: int = 3
    """Shortest word."""
    max_letters: int = 6
    """Longest word."""
    random_words: float = 0.0
    """Share of pictures that show random letters in place of a word of the list, 0 to 1."""
    height: int = 32
    """Pixels."""
    width: int = 96
    """Pixels."""
    faces: tuple[Face, ...] = ("sans", "serif", "round", "book")
    """Lettering to choose from."""
    inks: tuple[str, ...] = ("black", "red", "blue", "green", "purple", "brown")
    """CSS colour names of the letters; keep them dark."""
    papers: tuple[str, ...] = ("white", "yellow", "pink", "cyan", "orange", "silver")
    """CSS colour names of what is behind them; keep them light."""
    backgrounds: tuple[Background, ...] = ("plain", "gradient")
    """How the paper is shaded."""
    underline: bool = False
    """Draw a rule under the word."""
    shift_px: int = 2
    """The word stands up to so many pixels off the centre, each way, 0 to 3."""
    caption: str = "'{word}' in {ink} on {paper}, {face}"
    """The caption; {word}, {ink}, {paper}, {face} and {background} are filled in."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not 1 <= self.min_letters <= self.max_letters:
            raise ValueError(
                f"letters must be 1 or more, not {self.min_letters} to {self.max_letters}"
            )
        if not 0 <= self.random_words <= 1:
            raise ValueError(f"random_words must be 0 to 1, got {self.random_words}")
        if not 0 <= self.shift_px <= 3:
            raise ValueError(f"shift_px must be 0 to 3, got {self.shift_px}")
        for name in ("faces", "inks", "papers", "backgrounds"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")
        _check_caption(self.caption)


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Frames of several shapes, none with more pixels than the square (trainer/data/buckets.py)."""

    step_px: int = 64
    """Every side is a multiple of this."""
    max_aspect: float = 2.0
    """The longer side is at most so many times the shorter."""

    def __post_init__(self) -> None:
        if self.step_px < 1:
            raise ValueError(f"step_px must be at least 1, got {self.step_px}")
        if self.max_aspect < 1:
            raise ValueError(f"max_aspect must be 1 or more, got {self.max_aspect}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the training samples are."""

    path: Path
    """Folder of WebDataset tars with an index, as `python -m trainer.data build` writes it."""
    words: WordsConfig | None = None
    """Draw the samples into `path` if nothing is there yet; null: `path` must be there."""
    workers: int = 0
    """Processes per rank that read and decode ahead; 0 does it between the steps."""
    resolution: int | None = None
    """Side in pixels of the square that training sees; null: pictures as they are, of one size."""
    buckets: BucketConfig | None = None
    """Frames of other shapes beside the square, the nearest for each picture; null: the square."""
    max_upscale: float | None = None
    """Leave out pictures that had to be enlarged by more, 1.0 all enlarged ones; null: none."""
    crop: Literal["center", "random"] = "center"
    """What stays of a picture of another shape than its frame; random cuts words."""
    flip: float = 0.0
    """Share of pictures that are mirrored, 0 to 1; letters too."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, got {self.workers}")
        _check_framing(self)


def _check_framing(config: DataConfig) -> None:
    if not 0 <= config.flip <= 1:
        raise ValueError(f"flip must be 0 to 1, got {config.flip}")
    if config.max_upscale is not None and config.max_upscale < 1:
        raise ValueError(f"max_upscale must be 1 or more, got {config.max_upscale}")
    if config.resolution is None:
        for name, off in (("buckets", None), ("max_upscale", None), ("crop", "center")):
            if getattr(config, name) != off:
                raise ValueError(
                    f"{name} needs a resolution: without one, pictures stay as they are"
                )
    elif config.resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {config.resolution}")
    elif config.buckets and config.resolution % config.buckets.step_px:
        step = config.buckets.step_px
        below = config.resolution // step * step
        near = [str(side) for side in (below, below + step) if side]
        raise ValueError(
            f"resolution {config.resolution} must be a multiple of buckets.step_px {step}: "
            f"take {' or '.join(near)}"
        )


def _check_caption(caption: str) -> None:
    try:
        caption.format(word="", ink="", paper="", face="", background="")
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"caption {caption!r} can hold {{word}}, {{ink}}, {{paper}}, {{face}} and "
            f"{{background}}, but {error} is none of them"
        ) from None
