"""A few pictures from the weights as they are, made by all ranks together."""

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from PIL import Image

from trainer.config import PreviewConfig
from trainer.publish import Publisher


def make_previews(publisher: Publisher) -> list[Image.Image]:
    """One picture per prompt of the recipe, on every rank; every rank must call it.

    The prompts are split over the ranks. Every rank runs as many forward passes as any other, since
    at ZeRO stage 3 each pass gathers the weights from all of them.
    """
    config, world, family = publisher.config.preview, publisher.world, publisher.family
    if config is None:
        return []
    pipeline = family.pipeline(preview_scheduler(family.scheduler, publisher.prediction))
    publisher.engine.module.eval()
    mine: dict[int, Image.Image] = {}
    for turn in range(-(-len(config.prompts) // world.ranks)):
        number = (turn * world.ranks + world.rank) % len(config.prompts)
        mine[number] = sample(pipeline, config, number)
    publisher.engine.module.train()
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


def preview_scheduler(training: DDPMScheduler, prediction: str) -> DDIMScheduler:
    """DDIM (Song et al. 2021) with the noise schedule of the training."""
    scheduler: DDIMScheduler = DDIMScheduler.from_config(
        training.config, prediction_type=prediction
    )
    return scheduler
