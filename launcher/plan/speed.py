"""How long a step takes on some kinds of GPU: to compute, and for ranks to send each other."""

from dataclasses import dataclass

from launcher.plan.blocks import below, blocks_of, text_encoder_flop
from launcher.plan.model import Model, work_of
from launcher.plan.rewards import mean_calls, rows_of
from launcher.plan.workload import bytes_per_element, caption_tokens, unet_blocks
from trainer.config import TrainConfig, split_batch

# Of a GPU's peak. What MosaicML reached with Stable Diffusion 2 at 512 pixels on A100s (2023).
MFU = 0.28
# Of what a link carries by its sheet. An assumption: nothing here has measured it.
LINK_SHARE = 0.8
NODE_GBIT_PER_S = 200.0  # one port of InfiniBand HDR
# Forward passes that a forward and a backward pass take, by what learns.
TIMES = {"full": 3, "lora": 2, "frozen": 1}


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What there is to run on."""

    nodes: int
    gpus_per_node: int
    gpu_memory_gb: float | None = None
    """GiB of one GPU; null: unknown."""
    gbit_per_s: float = NODE_GBIT_PER_S
    """That a node sends to others, one way."""

    @property
    def ranks(self) -> int:
        """One for each GPU."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU, by NVIDIA's data sheets."""

    name: str
    peak_tflops: float
    """In bf16 without sparsity. TF32, for fp32, is half of it."""
    link_gb_per_s: float
    """GB/s over NVLink, one way."""


GPUS = (
    Gpu(name="A100", peak_tflops=312, link_gb_per_s=300),
    Gpu(name="H100 or H200", peak_tflops=989, link_gb_per_s=450),
)


def computing_s(config: TrainConfig, model: Model, ranks: int, gpu: Gpu) -> float:
    """Seconds of a step, at a share of a GPU's peak."""
    halved = 1 if config.precision == "bf16" else 2
    flop = sum(picture_flop(config, model).values()) * config.global_batch
    return flop * halved / (ranks * gpu.peak_tflops * 1e12 * MFU)


def sending_s(config: TrainConfig, model: Model, machines: Machines, gpu: Gpu) -> float:
    """Seconds of a step in which ranks send; below stage 3 DeepSpeed computes nothing meanwhile.

    In a ring all pass a node's border once, over what joins the nodes (Patarasuk and Yuan 2009).
    """
    between = machines.gbit_per_s / 8 if machines.nodes > 1 else gpu.link_gb_per_s
    gb_per_s = LINK_SHARE * min(gpu.link_gb_per_s, between)
    return sent_bytes(config, model, machines.ranks) / (gb_per_s * 1e9)


def sent_bytes(config: TrainConfig, model: Model, ranks: int) -> float:
    """That a rank sends in a step.

    Reducing gradients and gathering weights are a pass each over (ranks - 1) / ranks of them.
    Stages 0 and 1 reduce once a step, 2 and 3 after each forward pass; 3 gathers all weights that
    are in the engine for each forward and each backward pass.
    """
    work, stage = work_of(config, model), config.zero.stage
    passes = split_batch(config, ranks).accumulation
    if stage == 3:
        elements = passes * (work.trained + 2 * (work.trained + work.base))
    else:
        elements = work.trained * (1 + (passes if stage == 2 else 1))
    return bytes_per_element(config) * elements * (ranks - 1) / ranks


def picture_flop(config: TrainConfig, model: Model) -> dict[str, float]:
    """Operations for one picture: in the networks that learn, to encode it, and to judge it.

    The backward pass takes twice the forward pass, once where the weights are frozen; gradient
    checkpointing takes the forward pass again (but for its few layers that are not repeated). With
    a cache, nothing is encoded while training. Rewards encode captions alone.
    """
    again = config.speed.gradient_checkpointing
    height, width, tokens = model.height, model.width, caption_tokens(model.networks)
    encoder = blocks_of(below(model.networks["vae"], "encoder."), height, width)
    train = _unet_flop(config, model)
    encode = 0.0 if config.reward else float(sum(block.flop for block in encoder))
    for name, shapes in model.networks.items():
        if name.startswith("text_encoder"):
            flop, learns = text_encoder_flop(shapes, tokens), config.how(name) != "frozen"
            train += flop * (TIMES[config.how(name)] + again) if learns else 0
            encode += 0 if learns and not config.reward else flop
    work = work_of(config, model)
    judge = work.judges.flop + (work.decoding.flop if work.decoding else 0)
    return {"train": train, "encode": 0.0 if config.data.cache else encode, "judge": judge}


def _unet_flop(config: TrainConfig, model: Model) -> float:
    unet = sum(block.flop for block in unet_blocks(model.networks, model.height, model.width))
    learnt = max(TIMES[config.unet], 2) + config.speed.gradient_checkpointing
    again = config.reward is not None and config.reward.checkpoint
    calls, through = mean_calls(config)
    return unet * rows_of(config) * (calls + through * (learnt + again))
