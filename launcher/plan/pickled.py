"""The shapes in a file that torch.save wrote, without torch, and without running what it holds."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.plan.headers import Shapes

FLOATS = ("DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage")


def read_pickled(path: Path) -> Shapes:
    """The shapes of a file's floating-point tensors; ValueError if it holds anything else.

    A zip archive with a pickle in it, which names each tensor's storage and size:
    https://docs.pytorch.org/docs/stable/notes/serialization.html
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                tensors: dict[str, Any] = dict(_Sizes(file).load())
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, EOFError, TypeError) as error:
        raise ValueError(f"{path} is no file of weights that plan reads: {error}") from None
    return {name: size for name, size in tensors.items() if isinstance(size, tuple)}


class _Sizes(pickle.Unpickler):
    """Makes tuples of tensors: calls nothing that the file names, but for this one function."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _size
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, place: Any) -> Any:
        return place[1]  # the class of the storage


def _size(storage: str, offset: int, size: tuple[int, ...], *rest: Any) -> tuple[int, ...] | None:
    return tuple(size) if storage in FLOATS else None
