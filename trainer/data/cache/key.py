"""What latents and text embeddings depend on, and the name of the folder that follows from it.

Two folders, since they depend on different things: another text encoder leaves the latents.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster.config import to_dict
from trainer.data.config import DataConfig
from trainer.models.family import Family

# Of what is written and how it is computed: raised with every change that a reader would notice.
VERSION = 1
DIGITS = 12  # of the digest, in a folder's name
# Its decoder is often exchanged, and has no part in the latents.
DECODER = ("decoder.", "post_quant_conv.")
# What configs say of themselves rather than of the network. A dtype is told by the weights.
BOOKKEEPING = ("architectures", "dtype", "torch_dtype", "transformers_version")


def latents_facts(
    config: DataConfig, family: Family, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the latents of a folder of shards, with this manifest, depend on; for JSON."""
    frames = to_dict(config)
    return {
        "kind": "latents",
        "version": VERSION,
        "data": data_digest(manifest),
        "resolution": frames["resolution"],
        "buckets": frames["buckets"],
        "max_upscale": frames["max_upscale"],
        "mirrored too": config.flip > 0,
        # Before the weights, which it rounds: who reads what differs should read it first.
        "precision": _name(family.vae.dtype),
        "vae": network_digest(family.vae, leave_out=DECODER),
    }


def text_facts(family: Family, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """As `latents_facts`, for the captions' embeddings."""
    # Such as SDXL's force_zeros_for_empty_prompt.
    settings = family.rest.items()
    return {
        "kind": "text",
        "version": VERSION,
        "data": data_digest(manifest),
        "family": type(family).__name__,
        "settings": {name: value for name, value in settings if isinstance(value, bool)},
        "precision": [
            _name(next(encoder.parameters()).dtype) for encoder in family.text_encoders.values()
        ],
        "text encoders": [network_digest(encoder) for encoder in family.text_encoders.values()],
        "tokenizers": [tokenizer_digest(tokenizer) for tokenizer in family.tokenizers],
    }


def folder_of(cache: Path, facts: Mapping[str, Any]) -> Path:
    """Where what was made of these facts lies below `cache`."""
    return cache / f"{facts['kind']}-{_digest(facts)[:DIGITS]}"


def data_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the samples of a published folder of shards, wherever it lies.

    Tars that lie elsewhere count by name, size and the places of their members, as in a build.
    """
    files = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    return _digest([files, [[Path(s["path"]).name, s["bytes"]] for s in manifest["shards"]]])


def network_digest(network: Any, leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256 over a network's weights, as they are in memory, and its config.

    So it is the same whether they came from a folder, the hub or a single file.
    """
    known = network.config.to_diff_dict() if hasattr(network.config, "to_diff_dict") else None
    config = {
        name: value
        for name, value in (known or network.config).items()
        if not name.startswith("_") and name not in BOOKKEEPING
    }
    digest = hashlib.sha256(_canonical(config))
    for name, weight in sorted(network.state_dict().items()):
        if not name.startswith(leave_out):
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
            digest.update(_bytes(weight))
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over what a tokenizer makes of a text."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    for last_call in ("padding", "truncation"):
        del rules[last_call]
    return _digest([rules, tokenizer.model_max_length, tokenizer.pad_token_id])


def _bytes(weight: Tensor) -> memoryview:
    # A scalar cannot be viewed as bytes.
    return weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
