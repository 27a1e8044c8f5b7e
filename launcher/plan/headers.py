"""The shapes of a model's weights, from the headers of its files alone: gigabytes are not read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.hub import INDEX, cached_folder, hub_cache

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each weight of a network, by its name in it."""

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
MAX_HEADER_BYTES = 100_000_000  # what the format itself allows
# What diffusers and Transformers call the file of a network's weights.
STEMS = ("diffusion_pytorch_model", "model")


def network_shapes(model: str) -> dict[str, Shapes]:
    """The shapes of a pipeline's UNet, autoencoder and text encoders, by their names in it.

    `model` is a diffusers folder, or the name of one in the local Hugging Face cache. ValueError if
    it is not there, or holds no such networks as safetensors.
    """
    folder = find_folder(model)
    parts = json.loads((folder / INDEX).read_text())
    names = [
        name
        for name, part in parts.items()
        if (name in ("unet", "vae") or name.startswith("text_encoder"))
        and isinstance(part, list)
        and part[0] is not None
    ]
    if "unet" not in names:
        raise ValueError(f"model {folder} has no unet: plan knows Stable Diffusion 1, 2 and XL")
    return {name: read_network(folder / name) for name in names}


def find_folder(model: str) -> Path:
    """The diffusers folder of a model; ValueError if there is none on this machine."""
    folder = Path(model) if Path(model).exists() else cached_folder(model)
    if folder is None or not (folder / INDEX).is_file():
        raise ValueError(
            f"train.model {model!r} is no diffusers folder on this machine, nor the name of one in "
            f"the Hugging Face cache ({hub_cache()}): plan reads its headers"
        )
    return folder


def read_network(folder: Path) -> Shapes:
    """The shapes in a network's one file or several."""
    for stem in STEMS:
        if (folder / f"{stem}.safetensors").is_file():
            return read_header(folder / f"{stem}.safetensors")
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return {k: v for file in files for k, v in read_header(folder / file).items()}
    names = " or ".join(f"{stem}.safetensors" for stem in STEMS)
    raise ValueError(f"{folder} holds no {names}: plan reads no other weights")


def read_header(path: Path) -> Shapes:
    """The shapes of a safetensors file's floating-point tensors.

    The file begins with the length of its header, 8 bytes little-endian, and the header, which is
    JSON: https://github.com/huggingface/safetensors#format
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{path} is no safetensors file: its header would be {length} bytes")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError:
            raise ValueError(f"{path} is not whole: its header ends early") from None
    header.pop("__metadata__", None)
    return {n: tuple(t["shape"]) for n, t in header.items() if t["dtype"] in FLOATS}
