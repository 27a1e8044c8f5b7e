"""Text encoders of several models mixed when a picture is made, as TextCraftor does it.

A prompt's embeddings are added up by weight (Li et al. 2024): of an encoder that was tuned and the
original for a weaker effect, of several that were tuned apart for a mixture of their styles. All
other networks are those of the pipeline that is then called.
"""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

KEYWORDS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
"""What `encode_prompt` answers, by the names that a pipeline takes it under; SD has two of them."""


@torch.no_grad()
def blended_prompt(
    pipelines: Sequence[DiffusionPipeline],
    weights: Sequence[float],
    prompt: str,
    negative_prompt: str | None = None,
) -> dict[str, Tensor]:
    """A prompt as keyword arguments for any of the pipelines, whose text encoders are mixed.

    Guidance leads away from the negative prompt, mixed alike; None is what the pipeline takes
    without one. ValueError if the weights are not one for each pipeline, or do not add up to 1; one
    above 1 goes beyond its encoder.
    """
    if len(weights) != len(pipelines) or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(
            f"weights must be {len(pipelines)} numbers that add up to 1, got {list(weights)}"
        )
    encoded = [
        pipeline.encode_prompt(
            prompt=prompt,
            negative_prompt=negative_prompt,
            device=pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
        )
        for pipeline in pipelines
    ]
    by_keyword = zip(KEYWORDS, zip(*encoded, strict=True), strict=False)
    return {name: _mixed(parts, weights) for name, parts in by_keyword}


def _mixed(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    weighted = [weight * part.float() for part, weight in zip(parts, weights, strict=True)]
    return torch.stack(weighted).sum(dim=0).to(parts[0])
