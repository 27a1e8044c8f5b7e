"""The metrics. Adding one is adding a file, and its name here."""

from evalfarm.metrics import (
    clip_score,
    cmmd,
    fd_dinov2,
    fid,
    frechet,
    inception_score,
    kid,
    ocr,
)

__all__ = [
    "clip_score",
    "cmmd",
    "fd_dinov2",
    "fid",
    "frechet",
    "inception_score",
    "kid",
    "ocr",
]
