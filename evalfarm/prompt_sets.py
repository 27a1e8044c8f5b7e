"""Published sets of prompts, laid out as their authors publish them. Nothing is downloaded.

Two prompts that are the same stay two: each has its number, and so its own noise.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from cluster.rows import Row, read_rows
from evalfarm.references import RealPictures
from evalfarm.suite import Prompt

MARIO_SUBSETS = (
    "TMDBEval500",
    "OpenLibraryEval500",
    "LAIONEval4000",
    "ChineseDrawText",
    "DrawBenchText",
    "DrawTextCreative",
)
MARIO_WITH_PICTURES = MARIO_SUBSETS[:3]
HPS_STYLES = ("anime", "concept-art", "paintings", "photo")
METADATA = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("text", "caption")


class PromptSet(ABC):
    """Where a suite's prompts come from, below the folder of published data."""

    @abstractmethod
    def prompts(self, data: Path) -> list[Prompt]:
        """All prompts, in order; ValueError if the set does not lie in `data`, or not whole."""

    def references(self, data: Path) -> RealPictures | None:
        """The real pictures that belong to it, whether they are there or not."""
        return None


@dataclass(frozen=True, kw_only=True)
class MarioEval(PromptSet):
    """MARIO-Eval (TextDiffuser, Chen et al. 2023): prompts that ask for words."""

    path: Path = Path("MARIOEval")
    """Its folder, of a folder for each subset."""
    subsets: tuple[str, ...] = MARIO_SUBSETS
    """Those that are asked; three of them have real pictures."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.subsets if name not in MARIO_SUBSETS]
        if unknown or not self.subsets:
            raise ValueError(f"subsets {unknown} are unknown: choose from {MARIO_SUBSETS}")

    def prompts(self, data: Path) -> list[Prompt]:
        """The lines of each subset, which is their group."""
        return [
            Prompt(text=text, group=subset, has_real=subset in MARIO_WITH_PICTURES)
            for subset in self.subsets
            for text in _texts(
                existing(
                    data / self.path / subset / f"{subset}.txt",
                    "of MARIO-Eval, which TextDiffuser (microsoft/unilm) publishes",
                )
            )
        ]

    def references(self, data: Path) -> RealPictures | None:
        """The real pictures of its subsets that have some, as one set."""
        folders = [f"{name}/images" for name in self.subsets if name in MARIO_WITH_PICTURES]
        return RealPictures((data / self.path).absolute(), tuple(folders)) if folders else None


@dataclass(frozen=True, kw_only=True)
class PartiPrompts(PromptSet):
    """PartiPrompts (Yu et al. 2022), by their category."""

    path: Path = Path("PartiPrompts.tsv")

    def prompts(self, data: Path) -> list[Prompt]:
        """Every row; quotes are part of the text."""
        path = existing(data / self.path, "PartiPrompts, of google-research/parti")
        rows = list(read_rows(path))
        _check_columns(path, rows, ("Prompt", "Category"))
        return [Prompt(text=row["Prompt"], group=row["Category"]) for row in rows]


@dataclass(frozen=True, kw_only=True)
class HpsPrompts(PromptSet):
    """The benchmark of Human Preference Score v2 (Wu et al. 2023), by its style."""

    path: Path = Path("HPSv2")
    """A folder that holds benchmark/STYLE.json."""
    styles: tuple[str, ...] = HPS_STYLES

    def prompts(self, data: Path) -> list[Prompt]:
        """The texts of each style, which is their group."""
        return [
            Prompt(text=text, group=style)
            for style in self.styles
            for text in _texts(
                existing(
                    data / self.path / "benchmark" / f"{style}.json",
                    "of HPSv2's benchmark (zhwang/HPDv2)",
                )
            )
        ]


@dataclass(frozen=True, kw_only=True)
class ImageFolder(PromptSet):
    """Real pictures with their captions: each is what the picture of its caption should be."""

    path: Path
    """A folder with a metadata.jsonl or metadata.csv, of columns file_name and text."""

    def prompts(self, data: Path) -> list[Prompt]:
        """The captions, each with its picture as its target."""
        return [Prompt(text=text, target=target) for target, text in self._listed(data)]

    def references(self, data: Path) -> RealPictures:
        """The pictures that are listed."""
        folder = (data / self.path).absolute()
        names = [target.relative_to(folder).as_posix() for target, _ in self._listed(data)]
        return RealPictures(folder, tuple(names))

    def _listed(self, data: Path) -> list[tuple[Path, str]]:
        folder = existing(
            (data / self.path).absolute(),
            f"a folder of real pictures with {' or '.join(METADATA)}, and yours to make",
        )
        metadata = next((folder / name for name in METADATA if (folder / name).exists()), None)
        if metadata is None:
            raise ValueError(f"{folder} holds neither {' nor '.join(METADATA)}")
        rows = list(read_rows(metadata))
        column = next((name for name in CAPTION_COLUMNS if rows and name in rows[0]), "text")
        _check_columns(metadata, rows, ("file_name", column))
        return [
            (_inside(folder, metadata, number, row["file_name"]), _text(row[column]))
            for number, row in enumerate(rows, 1)
        ]


@dataclass(frozen=True, kw_only=True)
class PromptLines(PromptSet):
    """A list of one's own."""

    path: Path
    """A text file of a prompt in each line."""

    def prompts(self, data: Path) -> list[Prompt]:
        """The lines that are not empty."""
        path = existing(data / self.path, "a text file of a prompt in each line, and yours to make")
        return [Prompt(text=text) for text in _texts(path)]


def existing(path: Path, what: str) -> Path:
    """The path; ValueError if nothing is there, with what it should be."""
    if not path.exists():
        raise ValueError(
            f"{path} does not exist ({what}): put it there, or set eval.suite_data to the folder "
            f"that it lies in"
        )
    return path


def _texts(path: Path) -> list[str]:
    """The prompts of a file of lines, or of a JSON array."""
    texts = [_text(row.get("text")) for row in read_rows(path)]
    found = [text for text in texts if text]
    if not found:
        raise ValueError(f"{path} holds no prompt")
    return found


def _text(value: object) -> str:
    return str(value or "").strip()


def _check_columns(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    if not rows:
        raise ValueError(f"{path} holds no prompt")
    for number, row in enumerate(rows, 1):
        for column in columns:
            if not row.get(column):
                raise ValueError(f"{path} row {number} has no {column}")


def _inside(folder: Path, metadata: Path, row: int, name: str) -> Path:
    """The picture that a row names; ValueError if it is not below the folder, or not there."""
    path = Path(os.path.normpath(folder / name.replace("\\", "/")))
    if not path.is_relative_to(folder) or not path.is_file():
        raise ValueError(f"{metadata} row {row} names {name!r}, which is no file in {folder}")
    return path
