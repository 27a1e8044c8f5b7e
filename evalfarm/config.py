"""How a farm is set up. Imports no torch: a launcher checks a run before it queues."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer.models.config import NetworksConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score every checkpoint of a run while it trains."""

    suites: tuple[str, ...] = ("mini",)
    """Names of suites in evalfarm/suites, or paths of your own YAML files."""
    suite_data: Path = Path("data/suites")
    """Folder of the published prompts and pictures that suites name."""
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    references: Path | None = None
    """Tar or folder of real pictures to be near to, where a suite names none of its own."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where pictures are generated."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Dtype that pictures are generated in."""
    compile: bool = False
    """torch.compile each repeated block of the denoiser: the first batch takes a minute longer, and
    pictures of more than one size or count take more."""
    channels_last: bool = False
    """Keep pictures as batch height width channels: faster convolutions on most GPUs."""
    generators: int = 1
    """Ray actors that make pictures, at most: as many as the cluster has room for."""
    gpus_per_generator: float = 1.0
    """Share of a GPU for each generator; does not count with device cpu."""
    scorers: int = 1
    """Ray actors that score pictures, at most."""
    gpus_per_scorer: float = 0.0
    """Share of a GPU for each scorer; 0 scores on CPU cores."""
    batch: int = 8
    """Pictures per unit of work: what is made at once, and what a dying worker loses."""
    max_tries: int = 3
    """A unit that fails so often is set aside, its pictures recorded as failed."""
    unit_timeout_s: float = 1800.0
    """A worker that takes longer over a unit is given up."""
    recycle_after: int = 5000
    """Pictures after which a worker is replaced by a fresh one: OCR and GPU libraries leak."""

    def __post_init__(self) -> None:
        if not self.suites:
            raise ValueError("suites must name at least one; eval: null is no evaluation")
        for name in ("generators", "scorers", "batch", "max_tries", "recycle_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("gpus_per_generator", "unit_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.gpus_per_scorer < 0:
            raise ValueError(f"gpus_per_scorer must not be negative, got {self.gpus_per_scorer}")
