"""The names that the first code of latent diffusion gave its weights: what web UIs load."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE = (
    (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets\.", r"up.\1.block."),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"group_norm", "norm"),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "proj_out"),
)
OPEN_CLIP = (
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^final_layer_norm", "ln_final"),
    (r"^text_projection\.weight", "text_projection"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.", "attn."),
)


def ldm_weights(
    networks: Mapping[str, nn.Module], prefixes: Mapping[str, str]
) -> dict[str, Tensor]:
    """All weights as one single file has them; `prefixes` by network, as `WebUiNames` has them."""
    return {
        prefix + name: weight
        for network, prefix in prefixes.items()
        for name, weight in _weights_of(network, networks[network]).items()
    }


def is_open_clip(encoder: nn.Module) -> bool:
    """Whether a text encoder is OpenCLIP's (Stable Diffusion 2, XL's second) or OpenAI's.

    OpenAI's CLIPs were trained with an approximate GELU, OpenCLIP's with the exact one.
    """
    return bool(encoder.config.hidden_act == "gelu")  # type: ignore[union-attr]


def unet_name(name: str, config: Any) -> str:
    """The name of a UNet's layer or weight, from diffusers'; `config` is the UNet's."""
    for ours, theirs in UNET_ENDS.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    block, *rest = name.split(".")
    if block == "mid_block":
        kind, number, *rest = rest
        place = 2 * int(number) + (kind == "attentions")
        return _join(f"middle_block.{place}", kind, rest)
    level, kind, number, *rest = rest
    start = int(level) * (config.layers_per_block + 1)
    if kind == "downsamplers":
        return ".".join([f"input_blocks.{start + config.layers_per_block + 1}.0.op", *rest[1:]])
    if kind == "upsamplers":
        place = 1 + ("CrossAttn" in config.up_block_types[int(level)])
        return ".".join([f"output_blocks.{start + config.layers_per_block}.{place}", *rest])
    side, first = ("input", 1) if block == "down_blocks" else ("output", 0)
    place = start + int(number) + first
    return _join(f"{side}_blocks.{place}.{int(kind == 'attentions')}", kind, rest)


def clip_name(name: str) -> str:
    """The name of a CLIP text encoder's layer or weight as it was before transformers 5.6."""
    named = name.startswith(("text_model.", "text_projection"))
    return name if named else f"text_model.{name}"


def _join(start: str, kind: str, rest: list[str]) -> str:
    inner = [RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest
    return ".".join([start, *inner])


def _weights_of(name: str, network: nn.Module) -> dict[str, Tensor]:
    weights = network.state_dict()
    if name == "unet":
        return {unet_name(key, network.config): weight for key, weight in weights.items()}
    if name == "vae":
        return _vae(weights, len(network.config.block_out_channels))  # type: ignore[union-attr, arg-type]
    if is_open_clip(network):
        return _open_clip(weights)
    return {clip_name(key): weight for key, weight in weights.items()}


def _vae(weights: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    renamed = {}
    for key, weight in weights.items():
        name = _rename(key, VAE)
        # The decoder's levels are counted from the picture inwards.
        name = re.sub(r"\bup\.(\d+)", lambda level: f"up.{levels - 1 - int(level[1])}", name)
        is_matrix = ".attn_1." in name and weight.ndim == 2
        renamed[name] = weight[:, :, None, None] if is_matrix else weight
    return renamed


def _open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, weight in weights.items():
        name = _rename(key, OPEN_CLIP)
        if name.endswith((".k_proj.weight", ".v_proj.weight", ".k_proj.bias", ".v_proj.bias")):
            continue  # with q's
        if ".q_proj." in name:
            parts = [
                weights[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")
            ]
            renamed[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        else:
            renamed[name] = weight.T.contiguous() if name == "text_projection" else weight
    return renamed


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
