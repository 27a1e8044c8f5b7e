"""What training samples are made of, and from what. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.config import absolute_paths, to_dict

Face = Literal["sans", "serif", "round", "book", "hand"]
LaionFilter = Literal[
    "width", "height", "similarity", "pwatermark", "punsafe", "aesthetic", "language"
]
Background = Literal["plain", "gradient", "speckled"]

Truth = Literal["masks", "lines", "characters"]
"""What is known of a picture's text: where the ink is, the words with their corners, and which
character each pixel belongs to."""


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
class ImageFolderConfig:
    """Pictures listed in `metadata.jsonl`, `.csv` or `.parquet` (Hugging Face's imagefolder)."""

    path: Path
    """The folder; metadata lies in it or below, and names its files relative to itself."""
    caption_column: str | None = None
    """Column of the caption; null: `text`, or else `caption`. Of a list the first is taken."""
    min_side_px: int = 8
    """Pictures whose shorter side is less are left out and counted."""

    def __post_init__(self) -> None:
        _check_min_side(self.min_side_px)


@dataclass(frozen=True, kw_only=True)
class WebDatasetConfig:
    """WebDataset tars, such as img2dataset writes; indexed where they lie, never copied."""

    path: Path
    """Folder of the tars. Beside `NNNNN_stats.json`, a tar without one is not finished yet."""
    min_side_px: int = 8
    """Pictures whose shorter side is less are left out and counted."""

    def __post_init__(self) -> None:
        _check_min_side(self.min_side_px)


@dataclass(frozen=True, kw_only=True)
class LaionConfig:
    """LAION or Re-LAION: img2dataset's tars, filtered by LAION's metadata.

    A sample of which a filter's value is not known (null) is left out, unless `keep_unknown` names
    the filter: LAION joined its scores from outside, and not every row got one.
    """

    path: Path
    """Folder of the tars that img2dataset wrote; indexed where they lie."""
    metadata: Path | None = None
    """LAION's parquet file, or a folder of them; null: the columns saved in the tars' JSON."""
    min_width: int = 0
    """Pixels of the picture as it was on the web; 0 takes any."""
    min_height: int = 0
    """Pixels, as above."""
    min_similarity: float | None = None
    """CLIP's cosine of picture and text; LAION itself cut at 0.28 (English) or 0.26."""
    max_pwatermark: float | None = None
    """Probability of a watermark, 0 to 1; Stable Diffusion 1 took those below 0.5."""
    max_punsafe: float | None = None
    """Probability of unsafe content, 0 to 1; Stable Diffusion 2.0 took 0.1, 2.1 took 0.98."""
    min_aesthetic: float | None = None
    """LAION's aesthetic score, about 1 to 10; Stable Diffusion 1.5 took those above 5."""
    languages: tuple[str, ...] = ()
    """Languages of the text, such as en; empty takes any."""
    keep_unknown: tuple[LaionFilter, ...] = ()
    """Filters that let a sample pass whose value is null."""
    min_side_px: int = 8
    """Pictures whose shorter side, as downloaded, is less are left out and counted."""

    def __post_init__(self) -> None:
        _check_min_side(self.min_side_px)
        for name in ("max_pwatermark", "max_punsafe"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class MarioConfig:
    """MARIO (Chen et al. 2023): pictures with their words' boxes and their letters' segmentation.

    A sample is a folder `06269/062692210` of image.jpg, caption.txt, ocr.txt, charseg.npy and
    info.json. Not every copy of it has the pictures: samples without one are left out and counted.
    """

    path: Path
    """Folder of the numbered folders, at any depth."""
    index: Path | None = None
    """File with a line such as 06269_062692210 or 06269/062692210 for each sample to take; null:
    all there are."""
    min_confidence: float = 0.0
    """Words that the OCR was less sure of are not counted as known, 0 to 1."""
    min_side_px: int = 8
    """Pictures whose shorter side is less are left out and counted."""

    def __post_init__(self) -> None:
        _check_min_side(self.min_side_px)
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must be 0 to 1, got {self.min_confidence}")


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Prompts without pictures, for tuning by rewards; empty and repeated ones are left out."""

    path: Path
    """A .csv, .tsv, .json, .jsonl, .parquet or .txt (a prompt per line) file."""
    column: str | None = None
    """Column of the prompt; null: prompt, text or caption, in any case."""


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
    """Samples that are drawn. With no source at all, `path` must hold indexed shards."""
    imagefolder: ImageFolderConfig | None = None
    """Pictures in a folder, to be copied into shards; sources come one after the other."""
    webdataset: WebDatasetConfig | None = None
    """Tars that are there, to be indexed."""
    laion: LaionConfig | None = None
    """Tars of LAION's pictures, to be filtered and indexed."""
    mario: MarioConfig | None = None
    """Pictures with known words, to be copied into shards."""
    prompts: PromptsConfig | None = None
    """Prompts without pictures; stands alone."""
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
    cache: Path | None = None
    """Folder of latents and text embeddings that `python -m trainer.data encode` writes once, to be
    read in place of pictures and captions; null: encode while training."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, got {self.workers}")
        with_pictures = [name for name in self.sources if name != "prompts"]
        if self.prompts and with_pictures:
            raise ValueError(
                f"prompts have no pictures and cannot be mixed with {', '.join(with_pictures)}: "
                "take one of them"
            )
        _check_framing(self)

    @property
    def sources(self) -> dict[str, Any]:
        """The groups that samples come from, by name, in the order in which they are written."""
        groups = {name: getattr(self, name) for name in SOURCES}
        return {name: group for name, group in groups.items() if group is not None}

    @property
    def described(self) -> dict[str, dict[str, Any]]:
        """The sources as the manifest of a folder that is built from them names them."""
        return {name: to_dict(absolute_paths(group)) for name, group in self.sources.items()}

    def differences(self, there: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """In what these sources differ from those that a manifest names, each in some words."""
        wanted = self.described
        return [
            *(f"also {name}" for name in there if name not in wanted),
            *(f"no {name}" for name in wanted if name not in there),
            *(
                f"{name}.{key} {there[name].get(key)!r}, not {value!r}"
                for name, group in wanted.items()
                for key, value in group.items()
                if name in there and there[name].get(key) != value
            ),
        ]

    def refusal(self, differences: Sequence[str]) -> str:
        """What to say where `path` holds samples that differ so from these."""
        return (
            f"{self.path} holds other samples ({first_of(differences)}): set train.data.path to a "
            "new folder, or remove this one"
        )

    def needs(self, *, built: bool) -> dict[str, Path]:
        """The files and folders of the sources, by key; once `built`, of those not copied."""
        return {
            f"{name}.{key}": path
            for name, group in self.sources.items()
            if not (built and name in COPIED)
            for key, path in vars(group).items()
            if isinstance(path, Path)
        }


def first_of(facts: Sequence[str]) -> str:
    """The first few of many facts, in a line."""
    more = [f"and {len(facts) - MAX_NAMED} more"] if len(facts) > MAX_NAMED else []
    return "; ".join([*facts[:MAX_NAMED], *more])


SOURCES = ("words", "imagefolder", "webdataset", "laion", "mario", "prompts")
# What is copied into shards can do without its source.
COPIED = ("imagefolder", "mario", "prompts")
MAX_NAMED = 5


def _check_min_side(min_side_px: int) -> None:
    if min_side_px < 8:
        raise ValueError(f"min_side_px must be at least 8, got {min_side_px}")


def _check_framing(config: DataConfig) -> None:
    if not 0 <= config.flip <= 1:
        raise ValueError(f"flip must be 0 to 1, got {config.flip}")
    if config.max_upscale is not None and config.max_upscale < 1:
        raise ValueError(f"max_upscale must be 1 or more, got {config.max_upscale}")
    if config.cache and config.crop == "random":
        raise ValueError(
            "cache holds one crop of each picture: set crop to center, or cache to null"
        )
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
