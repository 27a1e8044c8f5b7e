"""How a run is tuned by rewards. Imports no torch: a launcher checks it before it queues.

Four published methods are settings of this one loop:

    TextCraftor (Li et al. 2024)    text_encoder full; grad_steps 5 of 25, guidance 7.5
    DRaFT-K (Clark et al. 2023)     unet lora; grad_steps K, 1 as a rule; all of them is DRaFT
    AlignProp (Prabhudesai 2023)    unet lora; least_grad_steps 1 and grad_steps all of them
    ReFL (Xu et al. 2023)           unet full; sampler_steps 40, guidance 1, grad_steps 1,
                                    predict_at [31, 40], and enough, its relu(2 - reward)
"""

from dataclasses import dataclass, field
from typing import Literal

from trainer.models.config import NetworksConfig

RewardName = Literal["clip", "aesthetic", "pick_score", "hps_v2", "hps_v2_1", "ocr"]

NETWORKS: dict[str, tuple[str, ...]] = {
    "clip": ("clip",),
    "aesthetic": ("aesthetic", "clip_l14"),
    "pick_score": ("pick_score",),
    "hps_v2": ("hps_v2", "clip_l14"),
    "hps_v2_1": ("hps_v2_1", "clip_l14"),
}
"""What each reward asks, by the key in `NetworksConfig`; ocr has a key of its own."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Draw pictures of prompts, have them judged, and pass the gradient back through the sampler.

    The data are prompts: of samples with pictures, only the captions are read.
    """

    rewards: dict[RewardName, float]
    """What is climbed, by weight: clip (100 cosines of networks.clip), aesthetic (LAION's rating),
    pick_score (points), hps_v2 and hps_v2_1 (100 cosines), all on the farm's scales; and ocr, the
    recogniser's log-likelihood of the quoted words, per character."""
    enough: dict[RewardName, float] = field(default_factory=dict)
    """From which value on a picture is left as it is by a reward: what is good already earns
    nothing more (ReFL), and tempts less to cheat."""
    watched: tuple[RewardName, ...] = ()
    """Rewards that are logged beside them and not climbed: where these fall, those are cheated."""
    pull: float = 0.0
    """Weight of the mean squared distance between the embeddings of the text encoder that is tuned
    and those of the original."""
    sampler: Literal["ddim", "euler", "dpmsolver++"] = "ddim"
    """How the noise is taken away; none of these adds any on the way."""
    sampler_steps: int = 25
    """Denoising steps."""
    guidance: float = 7.5
    """Classifier-free guidance; 1 is without."""
    height: int = 512
    """Pixels of the pictures."""
    width: int = 512
    """Pixels of the pictures."""
    grad_steps: int = 5
    """The last steps, through which the gradient passes; earlier ones are told the captions by the
    text encoder as it was."""
    least_grad_steps: int | None = None
    """Draw their number for each optimizer step, from this to `grad_steps`; null: always those."""
    predict_at: tuple[int, int] | None = None
    """First and last of the steps, counted from 1, at one of which, drawn for each optimizer step,
    sampling ends with the picture that the answer implies; null: it goes to its end."""
    checkpoint: bool = True
    """Compute each of those steps again in the backward pass, as the decoding always is: the memory
    of one in place of all."""
    line: Literal["whole", "detected"] = "detected"
    """Where ocr reads: the whole picture is one line, or PP-OCR finds them."""
    recogniser: str | None = None
    """PP-OCR's network that reads: an .onnx file, or a folder; null: the one of rapidocr."""
    networks: NetworksConfig = field(default_factory=NetworksConfig)

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("rewards must name at least one")
        for reward, weight in self.rewards.items():
            if not weight > 0:  # nan is not
                raise ValueError(
                    f"rewards.{reward} must be positive, got {weight}: watched names what is not "
                    "climbed"
                )
        if both := sorted(set(self.rewards) & set(self.watched)):
            raise ValueError(f"{both[0]} is in rewards and in watched: leave it in one of them")
        if unknown := sorted(set(self.enough) - set(self.rewards)):
            raise ValueError(f"enough.{unknown[0]} is of no reward that is climbed: see rewards")
        if self.pull < 0:
            raise ValueError(f"pull must be 0 or more, got {self.pull}")
        if self.guidance < 1:
            raise ValueError(f"guidance must be at least 1, got {self.guidance}")
        for name in ("sampler_steps", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._check_networks()
        self._check_steps()

    @property
    def asked(self) -> dict[str, str]:
        """The networks that are named for the rewards, by their keys here."""
        rewards = (*self.rewards, *self.watched)
        networks = {name for reward in rewards for name in NETWORKS.get(reward, ())}
        named = {f"networks.{name}": getattr(self.networks, name) for name in sorted(networks)}
        named["recogniser"] = self.recogniser if "ocr" in rewards else None
        return {key: name for key, name in named.items() if name}

    def _check_networks(self) -> None:
        for reward in (*self.rewards, *self.watched):
            for name in NETWORKS.get(reward, ()):
                if getattr(self.networks, name) is None:
                    raise ValueError(f"the reward {reward} needs a network: set networks.{name}")

    def _check_steps(self) -> None:
        first, last = self.predict_at or (self.sampler_steps, self.sampler_steps)
        if not 1 <= first <= last <= self.sampler_steps:
            raise ValueError(
                f"predict_at must be two of the steps 1 to {self.sampler_steps}, got "
                f"{[first, last]}"
            )
        if not 1 <= self.grad_steps <= first:
            raise ValueError(f"grad_steps must be 1 to {first}, got {self.grad_steps}")
        least = self.least_grad_steps
        if least is not None and not 1 <= least <= self.grad_steps:
            raise ValueError(f"least_grad_steps must be 1 to {self.grad_steps}, got {least}")
