"""How noise is mixed in at each timestep, and what the network should answer.

Two kinds of schedule: variance preserving (Ho et al. 2020), x_t = sqrt(a) x_0 + sqrt(1 - a) e, and
rectified flow (Liu et al. 2022), x_t = (1 - s) x_0 + s e. Both are a signal and a noise factor by
timestep, so everything else is the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The factors of picture and noise at each timestep."""

    signal: Tensor
    """fp32, timesteps: what x_0 is multiplied by."""
    noise: Tensor
    """fp32, timesteps: what the noise is multiplied by."""
    told: Tensor
    """int64, timesteps: the time that the network is told."""

    @property
    def num_timesteps(self) -> int:
        """Training draws timesteps from 0 to one less."""
        return len(self.signal)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised latents (batch channels h w), with one timestep (batch) each."""
        return _per_sample(self.signal, timesteps) * latents + (
            _per_sample(self.noise, timesteps) * noise
        )

    def target(self, prediction: str, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should answer, of the latents' shape.

        epsilon: the noise e. v_prediction: sqrt(a) e - sqrt(1 - a) x_0 (Salimans & Ho 2022).
        flow_prediction: e - x_0, the direction of the straight path.
        """
        if prediction == "epsilon":
            return noise
        if prediction == "flow_prediction":
            return noise - latents
        assert prediction == "v_prediction", prediction
        return _per_sample(self.signal, timesteps) * noise - (
            _per_sample(self.noise, timesteps) * latents
        )

    def clean(
        self, prediction: str, noised: Tensor, predicted: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The latents x_0 that an answer of the network implies, of the same shape.

        `target` solved for x_0. From noise alone (signal 0) epsilon says nothing of them: inf.
        """
        signal, noise = _per_sample(self.signal, timesteps), _per_sample(self.noise, timesteps)
        if prediction == "epsilon":
            return (noised - noise * predicted) / signal
        if prediction == "flow_prediction":
            return noised - noise * predicted
        assert prediction == "v_prediction", prediction
        return signal * noised - noise * predicted

    def snr(self, timesteps: Tensor) -> Tensor:
        """The signal-to-noise ratio of each timestep (batch)."""
        return (self.signal[timesteps] / self.noise[timesteps]).square()


def schedule_of(scheduler: Any, prediction: str, device: torch.device) -> Schedule:
    """The schedule for a prediction: straight for flow, else the one that the model was made for.

    The flow's noise factor at timestep t is (t + 1) / timesteps, and the network is told t + 1, as
    diffusers' flow samplers tell it.
    """
    steps = int(scheduler.config.num_train_timesteps)
    times = torch.arange(steps, device=device)
    if prediction == "flow_prediction":
        noise = (times + 1) / steps
        return Schedule(1 - noise, noise, times + 1)
    alphas = scheduler.alphas_cumprod.to(device, torch.float32)
    return Schedule(alphas.sqrt(), (1 - alphas).sqrt(), times)


def offset_noise(noise: Tensor, offset: Tensor, strength: float) -> Tensor:
    """Noise (batch channels h w) with a constant added to each channel: offset (batch channels).

    Lets a network learn pictures that are dark or bright as a whole; 0.1 is usual, 0 is none.
    """
    return noise if not strength else noise + strength * offset[:, :, None, None]


def min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """The weight of each sample's loss: min(SNR, gamma) in terms of x_0 (Hang et al. 2023).

    That is min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for velocity, and for the flow, whose
    error is that of x_0 over s squared, times s squared = 1 / (1 + sqrt(SNR))^2.
    """
    clipped = snr.clamp(max=gamma)
    if prediction == "epsilon":
        return clipped / snr
    if prediction == "v_prediction":
        return clipped / (snr + 1)
    return clipped / (1 + snr.sqrt()).square()


def _per_sample(factors: Tensor, timesteps: Tensor) -> Tensor:
    return factors[timesteps].view(-1, 1, 1, 1)
