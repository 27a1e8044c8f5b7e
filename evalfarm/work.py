"""Units of work: what travels between the farm's driver and its actors."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalfarm.rows import Picture, Score, WorkerFacts
from evalfarm.suite import Item, Prompt, Sampling


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Make these pictures of one checkpoint."""

    suite: str
    checkpoint: str
    """Digest of the weights."""
    path: str
    """The weights."""
    folder: Path
    """The suite's folder; pictures go below it."""
    subfolder: str
    sampling: Sampling
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def failed(self, error: str) -> "Result":
        """The rows that say that it could not be done."""
        return Result(
            pictures=[
                Picture(
                    checkpoint=self.checkpoint,
                    prompt=item.prompt,
                    sample=item.sample,
                    status="failed",
                    error=error,
                )
                for item in self.items
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Look:
    """Score these pictures of one checkpoint, or real ones."""

    suite: str
    checkpoint: str
    folder: Path
    """The pictures' files are below it; for real ones it may be a tar."""
    pictures: tuple[Picture, ...]
    prompts: tuple[Prompt, ...]
    """What each of them should show."""
    metrics: tuple[tuple[str, str], ...]
    """As a suite names them, and what their rows are called."""
    real: bool = False
    """Real pictures: there is no prompt to hold them against."""

    def __len__(self) -> int:
        return len(self.pictures)

    def failed(self, error: str) -> "Result":
        """The rows that say that it could not be done."""
        return Result(
            scores=[
                Score(
                    checkpoint=picture.checkpoint,
                    prompt=picture.prompt,
                    sample=picture.sample,
                    metric=rows,
                    status="failed",
                    error=error,
                )
                for _, rows in self.metrics
                for picture in self.pictures
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """Sum up what the ledger says of a suite: results, report and curves."""

    suite: str

    def __len__(self) -> int:
        return 1

    def failed(self, error: str) -> "Result":
        """Nothing is lost: all that it would have said is in the ledger."""
        return Result(error=error)


Unit = Generate | Look | Report


@dataclass(frozen=True, kw_only=True)
class Result:
    """The rows that a unit of work adds to the ledger."""

    pictures: list[Picture] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    worker: WorkerFacts | None = None
    """Who did it; null where nobody could."""
    results: dict[str, Any] | None = None
    """What a report says."""
    error: str | None = None
    """Why there is no report."""


def picture_file(subfolder: str, item: Item, sha256: str) -> str:
    """Where a picture lies below its suite's folder.

    Its content is in its name: two workers that make it on unlike machines, one taken for dead by
    mistake, never write over what the other's row says.
    """
    return f"images/{subfolder}/{item.prompt:05d}-{item.sample}-{sha256[:8]}.png"
