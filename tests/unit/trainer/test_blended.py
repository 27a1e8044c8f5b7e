"""Pictures between two text encoders."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.models.blended import blended_prompt
from trainer.models.pipeline import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers, of NumPy 2
PROMPT = "'a' in red"


@pytest.fixture(params=["sd1", "sdxl"])
def pipelines(request: pytest.FixtureRequest, model_of: Callable[[str], Path]) -> list[Any]:
    """A model, and the same with another text encoder."""
    original: Any = load_pipeline(model_of(request.param))
    tuned = deepcopy(original)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in tuned.text_encoder.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return [tuned, original]


def picture(pipeline: Any, **prompt: Any) -> NDArray[np.float32]:
    generator = torch.Generator().manual_seed(0)
    made = pipeline(
        **prompt,
        num_inference_steps=3,
        guidance_scale=4.0,
        height=16,
        width=16,
        generator=generator,
        output_type="np",
    )
    pixels: NDArray[np.float32] = made.images[0]
    return pixels


def test_all_of_one_encoder_makes_the_pictures_of_its_model(pipelines: list[Any]) -> None:
    _, original = pipelines
    made = {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        mixed = blended_prompt(pipelines, weights, PROMPT)
        made[weights] = picture(original, **mixed)
    plain = [picture(pipeline, prompt=PROMPT) for pipeline in pipelines]
    np.testing.assert_allclose(made[1.0, 0.0], plain[0], atol=1e-5)
    np.testing.assert_allclose(made[0.0, 1.0], plain[1], atol=1e-5)
    assert np.abs(plain[0] - plain[1]).max() > 1e-3
    assert all(np.abs(made[0.5, 0.5] - one).max() > 1e-4 for one in plain)


def test_half_of_each_is_the_mean_of_their_embeddings(pipelines: list[Any]) -> None:
    ends = [blended_prompt([pipeline], [1.0], PROMPT) for pipeline in pipelines]
    half = blended_prompt(pipelines, [0.5, 0.5], PROMPT)
    for name, mixed in half.items():
        torch.testing.assert_close(mixed, (ends[0][name] + ends[1][name]) / 2)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6]])
def test_weights_that_do_not_fit_are_refused(weights: list[float], pipelines: list[Any]) -> None:
    with pytest.raises(ValueError, match="weights must be 2 numbers that add up to 1"):
        blended_prompt(pipelines, weights, PROMPT)
