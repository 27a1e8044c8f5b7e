"""Actors that only take their time, so that what is measured is the farm around them."""

import time

from evalfarm.rows import Picture, Score
from evalfarm.work import Generate, Look, Report, Result


class SlowGenerator:
    """Takes a fixed time over each unit, and makes no pictures."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Generate) -> Result:
        """Rows as a generator's."""
        time.sleep(self.seconds)
        return Result(
            pictures=[
                Picture(
                    checkpoint=unit.checkpoint,
                    prompt=item.prompt,
                    sample=item.sample,
                    status="ok",
                    file=f"images/{item.prompt}.png",
                    sha256="0" * 64,
                    worker="stand-in",
                    seconds=self.seconds,
                )
                for item in unit.items
            ]
        )


class QuickScorer:
    """Scores at once, without looking."""

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Look) -> Result:
        """Rows as a scorer's."""
        return Result(
            scores=[
                Score(
                    checkpoint=picture.checkpoint,
                    prompt=picture.prompt,
                    sample=picture.sample,
                    metric=rows,
                    status="ok",
                    numbers={"precision": 1.0, "recall": 1.0, "accuracy": 1.0, "ned": 1.0},
                    worker="stand-in",
                )
                for _, rows in unit.metrics
                for picture in unit.pictures
            ]
        )


class NoReporter:
    """Sums nothing up."""

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Report) -> Result:
        """No rows."""
        return Result(results={"columns": [], "rows": []})
