"""The metrics. Adding one is adding a file, and its name here."""

from evalfarm.metrics import (
    aesthetic,
    clip_score,
    cmmd,
    fd_dinov2,
    fid,
    frechet,
    hps,
    inception_score,
    kid,
    lpips,
    ocr,
    pick_score,
    psnr,
    ssim,
)

__all__ = [
    "aesthetic",
    "clip_score",
    "cmmd",
    "fd_dinov2",
    "fid",
    "frechet",
    "hps",
    "inception_score",
    "kid",
    "lpips",
    "ocr",
    "pick_score",
    "psnr",
    "ssim",
]
