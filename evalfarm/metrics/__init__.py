"""The metrics. Adding one is adding a file, and its name here."""

from evalfarm.metrics import (
    aesthetic,
    clip_score,
    frechet,
    hps,
    lpips,
    ocr,
    pick_score,
    psnr,
    ssim,
)

__all__ = [
    "aesthetic",
    "clip_score",
    "frechet",
    "hps",
    "lpips",
    "ocr",
    "pick_score",
    "psnr",
    "ssim",
]
