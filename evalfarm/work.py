"""Units of work: what travels between the farm's driver and its actors."""

from dataclasses import dataclass, field
from pathlib import Path

from evalfarm.ledger import Picture, Score
from evalfarm.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Make these pictures of one checkpoint."""

    suite: Suite
    checkpoint: str
    path: str
    """The weights."""
    folder: Path
    """The suite's folder; pictures go below it."""
    subfolder: str
    pairs: tuple[tuple[int, int], ...]
    """(prompt number, sample number) of each."""

    def failed(self, error: str) -> "Result":
        """The rows that say that it could not be done."""
        return Result(
            pictures=[
                Picture(
                    checkpoint=self.checkpoint,
                    prompt=prompt,
                    sample=sample,
                    status="failed",
                    error=error,
                )
                for prompt, sample in self.pairs
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Look:
    """Score these pictures of one checkpoint, or real ones."""

    suite: Suite
    folder: Path
    """The pictures' files are below it; for real ones it may be a tar."""
    pictures: tuple[Picture, ...]
    metrics: tuple[str, ...]
    """Names, without variants."""
    variants: tuple[str, ...]
    real: bool = False
    """Real pictures: there is no prompt to hold them against."""

    def failed(self, error: str) -> "Result":
        """The rows that say that it could not be done."""
        return Result(
            scores=[
                Score(
                    checkpoint=picture.checkpoint,
                    prompt=picture.prompt,
                    sample=picture.sample,
                    metric=metric_key(name, variant),
                    status="failed",
                    error=error,
                )
                for name, variant in zip(self.metrics, self.variants, strict=True)
                for picture in self.pictures
            ]
        )


Unit = Generate | Look


@dataclass(frozen=True, kw_only=True)
class Result:
    """The rows that a unit of work adds to the ledger."""

    pictures: list[Picture] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)


def metric_key(name: str, variant: str) -> str:
    """A metric as the ledger and the curves name it."""
    return f"{name}/{variant}"


def picture_file(subfolder: str, prompt: int, sample: int) -> str:
    """Where a picture lies below its suite's folder."""
    return f"images/{subfolder}/{prompt:05d}-{sample}.png"
