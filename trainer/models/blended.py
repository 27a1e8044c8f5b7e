"""Text encoders of several models mixed when a picture is made, as TextCraftor does it.

A prompt's embeddings are added up by weight (Li et al. 2024): of an encoder that was tuned and the
original for a weaker effect, of several that were tuned apart for a mixture of their styles. All
other networks are those of the pipeline that makes the picture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def encoders_of(pipeline: Any) -> Any:
    """A pipeline of the same text encoders and tokenizers, and of no other network."""
    left_out = {
        name: None
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module) and not name.startswith("text_encoder")
    }
    # Else diffusers would cast the networks, which are the same ones, to fp32.
    return type(pipeline).from_pipe(pipeline, dtype=pipeline.text_encoder.dtype, **left_out)


def blend(pipeline: Any, parts: Sequence[Any], weights: Sequence[float]) -> None:
    """Have a pipeline mix what the text encoders of `parts` make of its prompts, by weight.

    Negative prompts are mixed alike. A weight above 1 goes beyond its encoder.
    """

    def encode_prompt(*arguments: Any, **keys: Any) -> tuple[Tensor | None, ...]:
        encoded = [part.encode_prompt(*arguments, **keys) for part in parts]
        return tuple(_mixed(answers, weights) for answers in zip(*encoded, strict=True))

    pipeline.encode_prompt = encode_prompt


def unblend(pipeline: Any) -> None:
    """Leave a pipeline with its own text encoders."""
    vars(pipeline).pop("encode_prompt", None)


def _mixed(answers: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor | None:
    """The weighted sum, in the dtype of the answers; without guidance one of them is None."""
    first = answers[0]
    if first is None:
        return None
    weighted = [
        weight * answer.float()
        for answer, weight in zip(answers, weights, strict=True)
        if answer is not None
    ]
    return torch.stack(weighted).sum(dim=0).to(first)
