"""A few pictures from the weights as they are, made by all ranks together."""

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from trainer.config import PreviewConfig
from trainer.distributed import World
from trainer.learner import Learner
from trainer.models.samplers import new_sampler
from trainer.objectives.objective import Objective


def make_previews(
    config: PreviewConfig | None, learner: Learner, objective: Objective, world: World
) -> list[Image.Image]:
    """One picture per prompt of the recipe, on every rank; every rank must call it.

    The prompts are split over the ranks. Every rank runs as many forward passes as any other, since
    at ZeRO stage 3 each pass gathers the weights from all of them.
    """
    if config is None:
        return []
    family = objective.family
    pipeline = family.pipeline(new_sampler(family.scheduler.config, objective.prediction))
    learner.engine.module.eval()
    mine: dict[int, Image.Image] = {}
    for turn in range(-(-len(config.prompts) // world.ranks)):
        number = (turn * world.ranks + world.rank) % len(config.prompts)
        mine[number] = sample(pipeline, config, number)
    learner.engine.module.train()
    found = {number: image for part in world.gather(mine) for number, image in part.items()}
    return [found[number] for number in range(len(config.prompts))]


def sample(pipeline: DiffusionPipeline, config: PreviewConfig, number: int) -> Image.Image:
    """The picture of prompt `number`: the same from any pipeline that has the same weights."""
    with torch.no_grad():
        result = pipeline(
            config.prompts[number],
            num_inference_steps=config.sampler_steps,
            guidance_scale=config.guidance,
            generator=torch.Generator().manual_seed(config.seed + number),
        )
    image: Image.Image = result.images[0]
    return image
