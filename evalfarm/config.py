"""How a farm is set up. Imports no torch: a launcher checks a run before it queues."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class NetworksConfig:
    """What scores. One that is not on this machine makes its metrics absent, with the reason.

    Each is a path; or `owner/name` or `owner/name/file` in the Hugging Face cache; or the name of
    a file in torch's cache.
    """

    clip: str | None = None
    """A CLIP of your own, for `clip_score` and `frechet`."""
    clip_b32: str = "openai/clip-vit-base-patch32"
    """For `clip_score/b32` and `clip_score/mario`."""
    clip_l14: str = "openai/clip-vit-large-patch14"
    """For `clip_score/l14` and `aesthetic`; its tokenizer is HPS's too."""
    clip_l14_336: str = "openai/clip-vit-large-patch14-336"
    """For `cmmd`."""
    inception: str = "weights-inception-2015-12-05-6726825d.pth"
    """The Inception of 2015, as torch-fidelity or pytorch-fid give it: for `fid`, `kid` and
    `inception_score`."""
    dinov2: str = "facebook/dinov2-large"
    """For `fd_dinov2`."""
    aesthetic: str = "sac+logos+ava1-l14-linearMSE.pth"
    """The head of LAION's aesthetic predictor."""
    pick_score: str = "yuvalkirstain/PickScore_v1"
    """For `pick_score`."""
    hps_v2: str = "xswu/HPSv2/HPS_v2_compressed.pt"
    """For `hps/v2`."""
    hps_v2_1: str = "xswu/HPSv2/HPS_v2.1_compressed.pt"
    """For `hps/v2.1`."""
    alexnet: str = "alexnet-owt-7be5be79.pth"
    """For `lpips/alex`."""
    vgg16: str = "vgg16-397923af.pth"
    """For `lpips/vgg`."""


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
