"""python -m benchmarks.neighbourhood: what a decoder shows of a line if it sees only what is near.

The line is the middle third of pictures of drawn words. Each is decoded whole, and again from the
line's own latents and so many around them: with the group norms' statistics of that part, and with
those of the whole picture, which then count as constants.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from trainer.data.config import WordsConfig
from trainer.data.words import draw_sample
from trainer.models.family import Family
from trainer.models.pipeline import load_family
from trainer.models.rgb import rgb_pixels

HERE = Path(__file__).parent
PICTURES = 32


class Decoded(NamedTuple):
    """The line, and what a made-up loss on it says to the latents."""

    pixels: Tensor
    gradient: Tensor


def main() -> None:
    """Measure each margin, print it, and write all beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="assets/mini", help="a diffusers folder")
    parser.add_argument("--height", type=int, default=32, help="pixels")
    parser.add_argument("--width", type=int, default=96, help="pixels")
    args = parser.parse_args()
    measured_on = machine()
    family = load_family(args.model, device=torch.device("cpu"), dtype_of=lambda _: torch.float32)
    images = words(PICTURES, args.height, args.width)
    with torch.no_grad():
        latents = family.scale_latents(family.encode_posterior(images)[0])
    report = {
        "command": f"python -m benchmarks.neighbourhood --model {args.model} "
        f"--height {args.height} --width {args.width}",
        "unit": "pixels: root mean square, of a range of 1; gradient: its norm, of the whole one's",
        "machine": measured_on,
        **measure(family, images, latents),
    }
    path = HERE / "results" / "neighbourhood-cpu.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), f"\nwrote {path}")


def words(pictures: int, height: int, width: int) -> Tensor:
    """uint8 pictures of words, one beside the other where there is room."""
    rows, columns = -(-height // 32), -(-width // 96)
    config = WordsConfig(samples=pictures * rows * columns)
    drawn = [rgb_pixels(draw_sample(config, n).image) for n in range(config.samples)]
    tiles = torch.stack(drawn).view(pictures, rows, columns, 3, 32, 96)
    whole = tiles.permute(0, 3, 1, 4, 2, 5).reshape(pictures, 3, rows * 32, columns * 96)
    return (255 * whole[..., :height, :width]).round().byte()


def measure(family: Family, images: Tensor, latents: Tensor) -> dict[str, Any]:
    """How far each margin is from the whole, in both ways, and the whole from the pictures."""
    first, last = latents.shape[3] // 3, latents.shape[3] * 2 // 3
    whole = decoded(family, latents, (first, last), first)
    original = images[..., first * family.latent_scale : last * family.latent_scale] / 255
    ways = {"own": nullcontext, "of the whole": lambda: statistics_of(family, latents)}
    errors: dict[str, dict[int, Any]] = {way: {} for way in ways}
    for way, statistics in ways.items():
        for margin in range(first + 1):
            with statistics():
                errors[way][margin] = difference(
                    decoded(family, latents, (first, last), margin), whole
                )
    return {
        "autoencoder": rms(whole.pixels - original),
        "by_statistics_and_latents_around": errors,
    }


def decoded(family: Family, latents: Tensor, line: tuple[int, int], margin: int) -> Decoded:
    """The line's columns of latents, decoded with so many to both sides."""
    inputs = latents.clone().requires_grad_()
    part = family.decode_latents(inputs[..., line[0] - margin : line[1] + margin])
    scale = family.latent_scale
    pixels = part[..., margin * scale : (margin + line[1] - line[0]) * scale]
    loss = (pixels * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))).sum()
    return Decoded(pixels.detach(), *torch.autograd.grad(loss, inputs))


@contextmanager
def statistics_of(family: Family, latents: Tensor) -> Iterator[None]:
    """Within it, the decoder's group norms take means and variances of these latents."""
    norms = [part for part in family.vae.decoder.modules() if isinstance(part, nn.GroupNorm)]
    known: dict[nn.Module, tuple[Tensor, ...]] = {}

    def keep(norm: Any, inputs: tuple[Tensor]) -> None:
        groups = inputs[0].unflatten(1, (norm.num_groups, -1))
        known[norm] = torch.var_mean(groups, dim=(2, 3, 4), correction=0, keepdim=True)

    def take(norm: Any, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        variance, mean = known[norm]
        groups = inputs[0].unflatten(1, (norm.num_groups, -1))
        scaled = ((groups - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
        return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]

    hooks = [norm.register_forward_pre_hook(keep) for norm in norms]
    with torch.no_grad():
        family.decode_latents(latents)
    for hook in hooks:
        hook.remove()
    hooks = [norm.register_forward_hook(take) for norm in norms]
    yield
    for hook in hooks:
        hook.remove()


def difference(part: Decoded, whole: Decoded) -> dict[str, float]:
    """How far a part is from the whole."""
    off = (part.gradient - whole.gradient).norm() / whole.gradient.norm()
    return {"pixels": rms(part.pixels - whole.pixels), "gradient": round(float(off), 3)}


def rms(errors: Tensor) -> float:
    """Root mean square."""
    return round(float(errors.square().mean().sqrt()), 4)


if __name__ == "__main__":
    main()
