"""Which of diffusers' schedulers makes pictures from what a model predicts."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

FLOW = "flow_prediction"


def new_sampler(config: Mapping[str, Any], prediction: str) -> Any:
    """A sampler on the noise schedule of `config` for a prediction.

    DDIM (Song et al. 2021) for noise and velocity, on the schedule of the training. For the flow
    DPM-Solver++ (Lu et al. 2022), of one step at a time: plain Euler on the straight path.
    """
    if prediction == FLOW:
        return DPMSolverMultistepScheduler.from_config(
            config,
            prediction_type=FLOW,
            use_flow_sigmas=True,
            flow_shift=1.0,
            solver_order=1,
            algorithm_type="dpmsolver++",
        )
    # Latents have no bounds, though DDIM's default is to clip where a model says nothing.
    return DDIMScheduler.from_config(config, prediction_type=prediction, clip_sample=False)
