"""Which character a pixel shows, as a number: the labels of MARIO's segmentation."""

import string

CHARACTERS = f"{string.digits}{string.ascii_letters}{string.punctuation} "
"""A pixel's label is 1 more than its character's place here, and 0 where there is none."""
CLASSES = 1 + len(CHARACTERS)
UNKNOWN = -1
"""The label of a pixel of which nothing is known."""


def label_of(character: str) -> int:
    """The label of a character; ValueError if it has none."""
    return 1 + CHARACTERS.index(character)
