"""Files from strangers: what would run code is refused, what is cut short is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cluster.run_folder import publish
from tests.conftest import load_tiny
from trainer.models.pipeline import load_pipeline
from trainer.models.source import find_model
from trainer.models.untrusted import tensors_of

ModelOf = Callable[[str], Path]
REFUSED = r"holds more than weights \(\S+\) and loading it could run code: take its \.safetensors"


class Trap:
    """What a stranger's pickle may hold: it makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that a trap makes."""
    return tmp_path / "sprung"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_ckpt_that_would_run_code_is_refused(tmp_path: Path, sprung: Path, zipped: bool) -> None:
    file = tmp_path / "model.ckpt"
    held = {"state_dict": {"weight": torch.ones(1)}, "hook": Trap(sprung)}
    torch.save(held, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=REFUSED):
        find_model(str(file), str(tmp_path))
    assert not sprung.exists()


def test_a_folder_whose_bin_would_run_code_is_refused(
    model_of: ModelOf, tmp_path: Path, sprung: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_of("sd1"), folder)
    trap = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save({"conv_in.weight": Trap(sprung)}, trap)
    load_tiny(folder)  # its safetensors beside the trap are read instead
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for load in (load_tiny, load_pipeline):
        with pytest.raises(ValueError, match=f"unet/diffusion_pytorch_model.bin {REFUSED}"):
            load(folder)
    assert not sprung.exists()


def test_adapters_are_not_read_from_a_pickle(
    model_of: ModelOf, tmp_path: Path, sprung: Path
) -> None:
    (tmp_path / "staging").mkdir()
    torch.save({"unet.lora": Trap(sprung)}, tmp_path / "staging" / "pytorch_lora_weights.bin")
    facts = {"kind": "lora", "base": str(model_of("sd1"))}
    publish(tmp_path / "staging", tmp_path / "step-00000001", facts)
    with pytest.raises(ValueError, match=r"holds no pytorch_lora_weights\.safetensors"):
        load_pipeline(tmp_path / "step-00000001")
    assert not sprung.exists()


def test_files_that_are_cut_short_are_named(model_of: ModelOf, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_of("sd1"), folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{weights} is no whole safetensors file"):
        load_tiny(folder)

    ckpt = tmp_path / "model.ckpt"
    torch.save({"weight": torch.ones(1000)}, ckpt)
    ckpt.write_bytes(ckpt.read_bytes()[:-500])
    with pytest.raises(ValueError, match=f"{ckpt} is no whole file of weights"):
        find_model(str(ckpt), str(folder))


def test_a_file_of_weights_is_known_without_being_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(2, 3)}, "step": 7}, tmp_path / "model.ckpt")
    found = tensors_of(tmp_path / "model.ckpt")
    assert found["weight"].shape == (2, 3)
    assert found["weight"].is_meta
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"no file of weights: its name must end in \.safetensors"):
        tensors_of(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_values_are_read_only_where_they_are_asked_for(tmp_path: Path, name: str) -> None:
    path, weights = tmp_path / name, {"weight": torch.arange(3.0)}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    assert tensors_of(path)["weight"].is_meta
    assert tensors_of(path, values=True)["weight"].tolist() == [0, 1, 2]


def test_values_are_not_read_from_a_pickle_that_would_run_code(
    tmp_path: Path, sprung: Path
) -> None:
    torch.save({"weight": torch.ones(1), "hook": Trap(sprung)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=REFUSED):
        tensors_of(tmp_path / "head.pth", values=True)
    assert not sprung.exists()
