"""Where networks that judge pictures lie. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NetworksConfig:
    """What judges pictures: it scores checkpoints, or teaches by reward.

    A metric whose network is not on this machine is absent, with the reason; without that of a
    reward no run starts. Each is a path; or `owner/name` or `owner/name/file` in the Hugging Face
    cache; or the name of a file in torch's cache.
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
