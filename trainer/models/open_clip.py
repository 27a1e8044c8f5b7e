"""A CLIP as open_clip lays out its weights, turned into transformers' own."""

import re
from collections.abc import Iterator, Mapping
from math import isqrt

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

HEADS = 16
"""Of both towers of ViT-H-14; no tensor's shape tells."""
NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
PROJECTIONS = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
"""Written the other way round."""
PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
"""Of each layer."""
LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def from_open_clip(tensors: Mapping[str, Tensor]) -> CLIPModel:
    """A CLIP with open_clip's weights in fp32, its sizes read from their shapes; 16 heads.

    ValueError if they are not those of a CLIP of two transformers.
    """
    if missing := {*NAMES, *PROJECTIONS} - set(tensors):
        raise ValueError(f"the weights are no CLIP of open_clip: they lack {min(missing)}")
    with torch.device("meta"):  # or a billion random weights would be drawn first
        model = CLIPModel(_config(tensors))
    weights = {name: tensor.float() for name, tensor in _renamed(tensors)}
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip()
        raise ValueError(f"the weights are no CLIP of open_clip: {first}") from None
    for embeddings in (model.text_model.embeddings, model.vision_model.embeddings):
        places = torch.arange(embeddings.position_embedding.num_embeddings)
        embeddings.register_buffer("position_ids", places[None], persistent=False)
    return model


def _config(tensors: Mapping[str, Tensor]) -> CLIPConfig:
    words, text_dim = tensors["token_embedding.weight"].shape
    vision_dim, _, _, patch = tensors["visual.conv1.weight"].shape
    patches = len(tensors["visual.positional_embedding"]) - 1
    text = CLIPTextConfig(
        vocab_size=words,
        max_position_embeddings=len(tensors["positional_embedding"]),
        # open_clip reads a caption off its highest number, which is that of the end.
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        **_tower(tensors, "", text_dim),
    )
    vision = CLIPVisionConfig(
        image_size=patch * isqrt(patches),
        patch_size=patch,
        **_tower(tensors, "visual.", vision_dim),
    )
    return CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=tensors["visual.proj"].shape[1],
    )


def _tower(tensors: Mapping[str, Tensor], prefix: str, dim: int) -> dict[str, int | str]:
    blocks = [found for name in tensors if (found := LAYER.fullmatch(name))]
    return {
        "hidden_size": dim,
        "intermediate_size": len(tensors[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": len({block[2] for block in blocks if (block[1] or "") == prefix}),
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",
    }


def _renamed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What is neither named above nor part of a layer does not count: masks, counters."""
    for name, tensor in tensors.items():
        if name in NAMES:
            yield NAMES[name], tensor
        elif name in PROJECTIONS:
            yield PROJECTIONS[name], tensor.T.contiguous()
        elif found := LAYER.fullmatch(name):
            tower, number, part, kind = found.groups()
            layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
            if part == "attn.in_proj":
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    yield f"{layer}.self_attn.{letter}_proj.{kind}", third.contiguous()
            else:
                yield f"{layer}.{PARTS.get(part, part)}.{kind}", tensor
