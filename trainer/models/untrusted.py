"""Files of weights from strangers: looked into, or read, without running what they hold."""

import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
SUFFIXES = (".safetensors", *PICKLES)


def tensors_of(path: Path, *, values: bool = False) -> dict[str, Tensor]:
    """The tensors in a file of weights by name, on the meta device: shapes without values.

    With `values` they are whole, on the CPU. ValueError if the file is cut short, is of no known
    kind, or is a pickle of more than weights.
    """
    if path.suffix == ".safetensors":
        return _in_safetensors(path, values)
    if path.suffix in PICKLES:
        return _in_pickle(path, values)
    raise ValueError(f"{path} is no file of weights: its name must end in {', '.join(SUFFIXES)}")


def check_folder(folder: Path) -> None:
    """ValueError if weights in a diffusers folder are not to be loaded; it names the file."""
    for component in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in component.iterdir() if path.suffix in SUFFIXES)
        # What is there as safetensors is loaded from it, and the pickle beside it is not opened.
        for path in [path for path in files if path.suffix == ".safetensors"] or files:
            tensors_of(path)


def _in_safetensors(path: Path, values: bool) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if values:
                return {name: file.get_tensor(name) for name in names}
            return {
                name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}): fetch it again") from None


def _in_pickle(path: Path, values: bool) -> dict[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu" if values else "meta", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} holds more than weights ({found[1] if found else 'a pickle of unknown make'}) "
            f"and loading it could run code: take its .safetensors, or make one where that does no "
            f"harm (docs/training.md, Models and exports)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no whole file of weights ({first}): fetch it again") from None
    while isinstance(held, dict) and "state_dict" in held:
        held = held["state_dict"]
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds a {type(held).__name__}, and no weights by name")
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}
