"""Which files hold adapters: of diffusers, of kohya, or a folder of PEFT's."""

import re
from collections.abc import Iterable
from pathlib import Path

from trainer.models.lora import LORA_FILE
from trainer.models.source import INDEX
from trainer.models.untrusted import tensors_of

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# How the first half of a pair of adapter matrices ends, in all three layouts and older ones.
ADAPTER = re.compile(r"lora(_A|_down|\.down|_linear_layer\.down)\.")


def adapter_layers_in(tensors: Iterable[str]) -> int:
    """How many layers the adapters of these names change."""
    return sum(bool(ADAPTER.search(name)) for name in tensors)


def adapters_in(path: Path) -> Path | None:
    """The file or PEFT folder of adapters that a path is, if it is one.

    ValueError if they lie there as a pickle.
    """
    if (path / PEFT_CONFIG).is_file():
        if not (path / PEFT_WEIGHTS).is_file():
            raise ValueError(
                f"{path} holds no {PEFT_WEIGHTS}, and adapters are read from nothing else"
            )
        return path
    if (path / LORA_FILE).is_file() and not (path / INDEX).is_file():
        path = path / LORA_FILE
    if not path.is_file() or not adapter_layers_in(tensors_of(path)):
        return None
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} holds adapters as a pickle: convert them to .safetensors")
    return path
