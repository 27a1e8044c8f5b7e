"""How a farm is set up. Imports no torch: a launcher checks a run before it queues."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score every checkpoint of a run while it trains."""

    suites: tuple[str, ...] = ("mini",)
    """Names of suites in evalfarm/suites, or paths of your own YAML files."""
    clip: Path | None = None
    """Folder of the CLIP that scores; null: the metrics that need one are absent."""
    references: Path | None = None
    """Tar or folder of real pictures to be near to; null: the Fréchet distance is absent."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where pictures are generated."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Dtype that pictures are generated in."""
    generators: int = 1
    """Ray actors that make pictures."""
    scorers: int = 1
    """Ray actors that score them, on CPU cores."""
    gpus_per_generator: float = 1.0
    """Share of a GPU for each generator; does not count with device cpu."""
    batch: int = 8
    """Pictures per unit of work: what is made at once, and what a dying worker loses."""
    max_tries: int = 3
    """A unit that fails so often is set aside, its pictures recorded as failed."""
    unit_timeout_s: float = 1800.0
    """A worker that takes longer over a unit is given up."""

    def __post_init__(self) -> None:
        if not self.suites:
            raise ValueError("suites must name at least one; eval: null is no evaluation")
        for name in ("generators", "scorers", "batch", "max_tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.gpus_per_generator <= 0:
            raise ValueError(f"gpus_per_generator must be positive, got {self.gpus_per_generator}")
        if self.unit_timeout_s <= 0:
            raise ValueError(f"unit_timeout_s must be positive, got {self.unit_timeout_s}")
