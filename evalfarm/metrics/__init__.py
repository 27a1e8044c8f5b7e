"""The metrics. Adding one is adding a file, and its name here."""

from evalfarm.metrics import clip_score, frechet, ocr

__all__ = ["clip_score", "frechet", "ocr"]
