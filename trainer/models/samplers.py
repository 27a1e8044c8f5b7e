"""Which of diffusers' schedulers makes pictures from what a model predicts."""

from collections.abc import Mapping
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

FLOW = "flow_prediction"
WEB_UI_SAMPLERS = {"ddim": "DDIM", "pndm": "PLMS", "euler": "Euler", "dpmsolver++": "DPM++ 2M"}
"""What web UIs call the samplers."""
FLOW_ORDERS = {"ddim": 1, "euler": 1, "dpmsolver++": 2}
"""On the straight path of the flow DDIM is Euler's method."""


def new_sampler(config: Mapping[str, Any], prediction: str, sampler: str = "ddim") -> Any:
    """A sampler on the noise schedule of `config` for a prediction; none adds noise on the way.

    For noise and velocity DDIM (Song et al. 2021), PNDM without its first Runge-Kutta steps, which
    others call PLMS (Liu et al. 2022), Euler's method (Karras et al. 2022), or DPM-Solver++ of two
    steps (Lu et al. 2022). For the flow DPM-Solver++ of one step, which is plain Euler on the
    straight path, or of two. ValueError if the sampler cannot follow the flow.
    """
    if prediction == FLOW:
        return _flow_sampler(config, sampler)
    # Latents have no bounds, though DDIM's default is to clip where a model says nothing.
    classes: dict[str, tuple[Any, dict[str, Any]]] = {
        "ddim": (DDIMScheduler, {"clip_sample": False}),
        "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
        "euler": (EulerDiscreteScheduler, {}),
        "dpmsolver++": (
            DPMSolverMultistepScheduler,
            {"algorithm_type": "dpmsolver++", "solver_order": 2},
        ),
    }
    scheduler, settings = classes[sampler]
    return scheduler.from_config(config, prediction_type=prediction, **settings)


def _flow_sampler(config: Mapping[str, Any], sampler: str) -> Any:
    if sampler not in FLOW_ORDERS:
        raise ValueError(
            f"sampler {sampler} cannot follow the flow that this model predicts: choose from "
            f"{', '.join(FLOW_ORDERS)}"
        )
    return DPMSolverMultistepScheduler.from_config(
        config,
        prediction_type=FLOW,
        use_flow_sigmas=True,
        flow_shift=1.0,
        solver_order=FLOW_ORDERS[sampler],
        algorithm_type="dpmsolver++",
    )
