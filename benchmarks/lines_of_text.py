"""Pictures with lines of text that a recogniser reads, for measuring what reading them costs."""

from dataclasses import replace
from math import ceil

import numpy as np
import torch

from benchmarks.ranks import random_batch
from launcher.plan.terms import CROP_HEIGHT_PX, CROP_WIDTH_PX
from trainer.data.config import WordsConfig
from trainer.data.loader import Batch, TextLine
from trainer.data.words import draw_sample


def batch_of_lines(pictures: int, resolution: int, lines: int) -> Batch:
    """So many pictures, square, each with the same drawn words one under the other.

    A line is as wide as the picture and has the proportions that plan assumes.
    """
    high = ceil(resolution * CROP_HEIGHT_PX / CROP_WIDTH_PX)
    words = WordsConfig(samples=lines, height=high, width=resolution, faces=("sans",), shift_px=0)
    drawn = [draw_sample(words, number) for number in range(lines)]
    pixels = np.full((resolution, resolution, 3), 255, np.uint8)
    labels = np.zeros((resolution, resolution), np.int64)
    told = []
    for number, sample in enumerate(drawn):
        top, (word,) = number * high, sample.words
        corners = [[0, top], [resolution, top], [resolution, top + high], [0, top + high]]
        pixels[top : top + high] = np.asarray(sample.image)
        labels[top : top + high] = np.asarray(sample.characters)
        told.append(TextLine(word.text, np.array(corners, np.float64)))
    batch = random_batch(pictures, resolution)
    images = torch.from_numpy(pixels).permute(2, 0, 1).repeat(pictures, 1, 1, 1)
    characters = torch.from_numpy(labels).repeat(pictures, 1, 1)
    return replace(batch, images=images, lines=[told] * pictures, characters=characters)
