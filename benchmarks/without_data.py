"""A step of the trainer on tensors without data: the bytes that it has alive, and its operations.

The networks' weights are torch's fake tensors, which know their shape and dtype alone, and so does
all that is computed with them: Stable Diffusion 1.5 at any batch takes some hundred MB here.
What runs is the trainer's own objective and its backward pass, without DeepSpeed. What hangs on
values (chance, tokens, reading the original pictures) runs on real tensors and is counted too.

Attention is torch's flash kernel for CPUs, which keeps what those for GPUs keep: queries, keys,
values, answer, and a number for each query and head. Scratch space of kernels is not counted.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks.lines_of_text import batch_of_lines
from benchmarks.models import SCHEDULE, TOKENS, new_networks
from launcher.plan.terms import LINES
from trainer.config import TrainConfig
from trainer.data.loader import Batch
from trainer.learner import make_fast
from trainer.mini.networks import new_tokenizer
from trainer.models.dtypes import DTYPES
from trainer.models.source import Source
from trainer.models.stable_diffusion import StableDiffusion
from trainer.models.trained import Trained
from trainer.objectives.objective import Objective
from trainer.objectives.reward_tuning import RewardTuning
from trainer.train import open_objective

Hold = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Step:
    """A forward and a backward pass over a batch, and all that they need."""

    trained: Trained
    objective: Objective
    batch: Batch

    def __call__(self) -> dict[str, int]:
        """Leave gradients; what the terms had to leave out, by why."""
        loss = self.objective(self.trained, self.batch, step=0)
        loss.total.backward()  # type: ignore[no-untyped-call]
        return {why: count for why, count in loss.counts.items() if count}


class Tracked(NamedTuple):
    """What a step takes of tensors."""

    held: int
    """Bytes before it: weights, and the batch."""
    most: int
    """Bytes at its worst moment: these, activations and gradients."""
    flop: int
    """Operations."""


def track(config: TrainConfig, shape: str, resolution: int) -> Tracked:
    """Take a step of a model of this shape without data.

    RuntimeError if a term has nothing to do on the pictures, and would cost nothing.
    """
    with Tally() as tally:
        step = new_step(config, shape, resolution, device="meta", hold=_hold)
        tally.count(_all_tensors())
        held = tally.most = tally.bytes
        left_out = step()
    if left_out:
        raise RuntimeError(f"the recogniser does not read what was drawn: {left_out}")
    return Tracked(held, tally.most, tally.flop)


def new_step(
    config: TrainConfig,
    shape: str,
    resolution: int,
    *,
    device: str = "cpu",
    hold: Hold = lambda network: None,
) -> Step:
    """A step of a model of this shape, whose weights are made on `device` and then given to `hold`.

    As the trainer makes one, but the weights are not read, and all are in the run's precision.
    """
    with torch.device(device):
        networks = {n: one.to(DTYPES[config.precision]) for n, one in new_networks(shape).items()}
    hold(networks["vae"])  # tells the family's device
    family = StableDiffusion(
        source=Source(Path(), Path()),
        denoiser=networks["unet"],
        vae=networks["vae"],
        text_encoders={"text_encoder": networks["text_encoder"]},
        tokenizers=[new_tokenizer(TOKENS)],
        scheduler=DDPMScheduler(**SCHEDULE),
        rest={},
    )
    for network in networks.values():
        network.eval().requires_grad_(False)
    objective = open_objective(family, config)
    with torch.device(device):
        trained = Trained(family, config).to(DTYPES[config.precision])
    make_fast(family, config.speed)
    asked = family.networks.values()
    copied = objective.original.networks.values() if isinstance(objective, RewardTuning) else ()
    for network in (*asked, *copied):
        hold(network)
    return Step(trained, objective, batch_of_lines(config.micro_batch or 1, resolution, LINES))


def _attention_flop(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_flop(out: Tensor, *given: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(out.shape, *(one.shape for one in given[:3])))


# torch counts attention on GPUs alone.
FLOP_OF = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}
"""As torch's FlopCounterMode counts; that one keeps tensors alive that a step would let go."""


class Tally(TorchDispatchMode):
    """Counts the tensors that are made while it is entered: memory that two share counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = self.flop = 0
        self._known = WeakIdKeyDictionary(ref_type=weakref.ref)
        for tensor in _all_tensors():
            self._known[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, operator: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        named = named or {}
        try:
            made = operator(*given, **named)
        except DynamicOutputShapeException:
            made = _on_zeros(operator, given, named)
        if count := FLOP_OF.get(operator._overloadpacket):
            self.flop += count(*given, **named, out_val=made)
        self.count(one for one in tree_leaves(made) if isinstance(one, Tensor))
        return made

    def count(self, tensors: Iterator[Tensor]) -> None:
        """Tensors that are there from now on, until nobody holds them."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage in self._known:
                continue
            size = storage.nbytes()
            self._known[storage] = None
            weakref.finalize(storage, self._let_go, size).atexit = False
            self.bytes += size
            self.most = max(self.most, self.bytes)

    def _let_go(self, size: int) -> None:
        self.bytes -= size


def _on_zeros(operator: Any, given: Any, named: Any) -> Any:
    """What an operator makes whose answer's shape hangs on data, as CTC's on the (real) texts."""
    mode = next(one.fake_mode for one in tree_leaves(given) if isinstance(one, FakeTensor))
    zeros = tree_map_only(
        FakeTensor, lambda one: torch.zeros(one.shape, dtype=one.dtype), (given, named)
    )
    return tree_map_only(Tensor, mode.from_tensor, operator(*zeros[0], **zeros[1]))


def _hold(network: nn.Module) -> None:
    """Put fake tensors, as of the CPU, in the place of those on the meta device."""
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            held = nn.Parameter(_fake(weight), weight.requires_grad)
            module.register_parameter(name, held)
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, _fake(values))


def _fake(tensor: Tensor) -> Tensor:
    if isinstance(tensor, FakeTensor):
        return tensor
    return FakeTensor(MODE, tensor.detach(), torch.device("cpu"))


MODE = FakeTensorMode(allow_non_fake_inputs=True)
"""What is real and meets a fake tensor is taken for one too."""


def _all_tensors() -> Iterator[Tensor]:
    """That hold memory, or would."""
    gc.collect()
    # By their type: some of torch's deprecated objects warn when they are asked themselves.
    tensors = (one for one in gc.get_objects() if issubclass(type(one), Tensor))
    return (one for one in tensors if one.device.type == "cpu" and one.layout == torch.strided)
