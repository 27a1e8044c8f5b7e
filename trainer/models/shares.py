"""How a blend of models is spelt: MODEL*0.7+OTHER*0.3."""

import re
from collections.abc import Iterable
from pathlib import Path

NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?"
SHARE = re.compile(rf"(.+?)\*({NUMBER})(?:\+(?=.)|$)")


def shares_in(named: str) -> list[tuple[str, float]]:
    """The names and weights that a blend is made of; none of what is no blend.

    A weight below 0 leads away from its model. ValueError if they do not add up to 1.
    """
    found = SHARE.findall(named)
    if not found or Path(named).exists():
        return []
    if rest := SHARE.sub("", named):
        raise ValueError(f"{rest} in {named} has no weight: a blend is spelt MODEL*0.7+OTHER*0.3")
    shares = [(name, float(weight)) for name, weight in found]
    total = sum(weight for _, weight in shares)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the weights of {named} must add up to 1, got {total:g}")
    return shares


def spelt(shares: Iterable[tuple[str, float]]) -> str:
    """A blend of these names by these weights."""
    return "+".join(f"{name}*{weight!r}" for name, weight in shares)
