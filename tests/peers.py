"""Other people's metrics, which ours must agree with: import them only from here.

`make install` puts them into a folder of their own. torchmetrics imports torch_fidelity wherever it
finds it, all three import torchvision, and torchvision would bring another torch. Where there is no
torchvision, a stand-in offers what their imports ask for, and is gone afterwards.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import nn

FOLDER = Path(sys.prefix) / "peers"
PLACEHOLDERS = {
    "torchvision": (),
    "torchvision.datasets": ("CIFAR10", "CIFAR100", "STL10"),
    "torchvision.models": (),
    "torchvision.ops": (),
    "torchvision.ops.misc": ("FrozenBatchNorm2d",),
    "torchvision.transforms": (
        *("CenterCrop", "ColorJitter", "Compose", "Grayscale", "Normalize"),
        *("RandomResizedCrop", "Resize", "ToTensor"),
    ),
    "torchvision.transforms.functional": (),
}
"""Modules, and the names in them that are imported but that no test makes use of."""
ALEXNET: tuple[Any, ...] = (
    *((3, 64, 11, 4, 2), "pool", (64, 192, 5, 1, 2), "pool"),
    *((192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1), "pool"),
)
VGG16_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def peer(name: str) -> ModuleType:
    """A module of torch_fidelity, lpips or open_clip, such as `torch_fidelity.metric_fid`."""
    if name not in sys.modules:
        with _importable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    return sys.modules[name]


@contextmanager
def _importable() -> Iterator[None]:
    # These look once what else is installed, and remember: they must not see the stand-in.
    importlib.import_module("torchmetrics.image")
    importlib.import_module("transformers.utils").is_torchvision_available()
    stand_in = {} if find_spec("torchvision") else _torchvision()
    sys.modules.update(stand_in)
    sys.path.append(str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        for name in stand_in:
            del sys.modules[name]


def _torchvision() -> dict[str, ModuleType]:
    modules = {name: ModuleType(name) for name in PLACEHOLDERS}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        for placeholder in PLACEHOLDERS[name]:
            setattr(module, placeholder, type(placeholder, (), {}))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    models: Any = modules["torchvision.models"]
    models.alexnet, models.vgg16 = _alexnet, _vgg16
    modes = {"NEAREST": "nearest", "BILINEAR": "bilinear", "BICUBIC": "bicubic"}
    transforms: Any = modules["torchvision.transforms"]
    transforms.InterpolationMode = Enum("InterpolationMode", modes)
    return modules


def _alexnet(pretrained: bool = False) -> SimpleNamespace:
    """The trunk that LPIPS looks through, in torchvision's layout, with random weights."""
    assert not pretrained, "ask for lpips.LPIPS(net='alex', pnet_rand=True)"
    layers: list[nn.Module] = []
    for layer in ALEXNET:
        pool = layer == "pool"
        layers += [nn.MaxPool2d(3, 2)] if pool else [nn.Conv2d(*layer), nn.ReLU(inplace=True)]
    return SimpleNamespace(features=nn.Sequential(*layers))


def _vgg16(pretrained: bool = False) -> SimpleNamespace:
    """The other one; a width of 0 is a pooling."""
    assert not pretrained, "ask for lpips.LPIPS(net='vgg', pnet_rand=True)"
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16_WIDTHS:
        if width == 0:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return SimpleNamespace(features=nn.Sequential(*layers))
