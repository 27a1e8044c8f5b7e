"""What saving and failing cost a run, and how far apart saves lose least."""

from dataclasses import dataclass
from math import sqrt

# In a thousand days of 8 GPUs: 419 unforeseen ones in 54 days of 16,384 GPUs, as the report on
# Llama 3 counts them (arXiv 2407.21783, table 5).
FAILURES = 1000 * 419 / (54 * 16_384 / 8)
# Until a run that failed computes again: found, queued, checked, loaded. An assumption.
RESTART_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Failing:
    """How often a run fails, and what that and a save cost, in seconds."""

    between_s: float
    """Between two failures, on average."""
    save_s: float
    """For which the steps wait at a save."""
    restart_s: float = RESTART_S

    @property
    def best_interval_s(self) -> float:
        """Between two saves, so that least is lost: sqrt(2 (M + R) C).

        Young 1974, with what a restart takes; Daly 2006 refines it where the interval is near the
        time between failures.
        """
        return sqrt(2 * (self.between_s + self.restart_s) * self.save_s)

    def goodput(self, interval_s: float) -> float:
        """The share of the time that is spent in steps that count, with so much between two saves.

        The rest goes into saves, and at each failure into half an interval and a restart. 0 where
        a run fails oftener than it gets on.
        """
        period_s = interval_s + self.save_s
        return max(
            0.0, 1 - self.save_s / period_s - (period_s / 2 + self.restart_s) / self.between_s
        )


def between_failures_s(gpus: int) -> float:
    """Seconds between two failures of any of so many GPUs, or of what is around them."""
    return 1000 * 24 * 3600 * 8 / (FAILURES * gpus)
