"""Weights that take the place of others leave nothing of them behind, bit for bit."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.run_folder import BrokenFolder, publish
from tests.conftest import load_tiny, publish_lora_export, train_config
from tests.unit.trainer.test_exports import LORA, ddim, latents, trainable
from trainer.models.exports import save_export
from trainer.models.loaded import LoadedModel
from trainer.models.named import find_named
from trainer.models.pipeline import load_pipeline
from trainer.models.trained import Trained

ModelOf = Callable[[str], Path]


def publish_export(folder: Path, model: Path, step: int, **how: Any) -> Path:
    """An export of networks that were moved at random, as a trainer publishes it."""
    family = load_tiny(model)
    config = train_config(model, **how)
    weights = trainable(dict(Trained(family, config).named_parameters()))
    torch.manual_seed(step)
    for name, weight in weights.items():
        weight += (0.2 if "lora_" in name else 0.02) * torch.randn_like(weight)
    staging = folder / f"{step}.tmp"
    staging.mkdir(parents=True)
    facts = save_export(staging, family, config, weights, prediction="epsilon", dtype=torch.float32)
    publish(staging, folder / f"step-{step:08d}", facts)
    return folder / f"step-{step:08d}"


def drawn_by(pipeline: Any) -> torch.Tensor:
    """What it makes of a caption, by one sampler for all."""
    pipeline.scheduler = ddim(pipeline.scheduler)
    return latents(pipeline)


def switched(loaded: LoadedModel, named: Path | str) -> torch.Tensor:
    """What is drawn after a switch."""
    return drawn_by(loaded.switch(find_named(str(named))))


def test_adapters_are_exchanged_on_one_base_without_a_residue(
    model_of: ModelOf, tmp_path: Path
) -> None:
    model = model_of("sdxl")
    both = {"unet": "lora", "text_encoder": "lora", "lora": LORA}
    exports = [
        publish_export(tmp_path, model, 1, **both),
        publish_export(tmp_path, model, 2, unet="lora", lora=LORA),
        model,
        publish_export(tmp_path, model, 3, text_encoder="lora", unet="frozen", lora=LORA),
    ]
    fresh = {export: drawn_by(load_pipeline(export)) for export in exports}
    assert len({tuple(drawn.flatten().tolist()) for drawn in fresh.values()}) == len(exports)
    loaded = LoadedModel()
    networks = set()
    for export in (*exports, exports[0]):
        assert torch.equal(switched(loaded, export), fresh[export])
        networks.add(id(loaded.switch(find_named(str(export))).unet))
    assert len(networks) == 1  # the base was read once


def test_whole_exports_are_copied_into_the_loaded_networks(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("sd1")
    exports = [publish_export(tmp_path, model, step, unet="full") for step in (1, 2)]
    exports.append(publish_export(tmp_path, model, 3, unet="full", text_encoder="full"))
    exports.append(publish_export(tmp_path, model, 4, unet="lora", text_encoder="full", lora=LORA))
    fresh = {export: drawn_by(load_pipeline(export)) for export in exports}
    loaded = LoadedModel()
    assert torch.equal(switched(loaded, exports[0]), fresh[exports[0]])
    unet = loaded.switch(find_named(str(exports[0]))).unet
    place = unet.conv_in.weight.data_ptr()
    vae = type(loaded.switch(find_named(str(exports[0]))).vae)
    monkeypatch.setattr(vae, "from_pretrained", lambda *_, **__: pytest.fail("was frozen"))
    for export in (*exports[1:], exports[0]):
        assert torch.equal(switched(loaded, export), fresh[export])
    assert unet.conv_in.weight.data_ptr() == place


def test_a_model_of_another_shape_is_opened_anew(
    model_of: ModelOf, tiny_model: Path, tmp_path: Path
) -> None:
    first = publish_export(tmp_path / "a", model_of("sd1"), 1, unet="full")
    second = publish_export(tmp_path / "b", model_of("sd2"), 2, unet="full")
    loaded = LoadedModel()
    for export in (first, second, tiny_model, first):
        assert torch.equal(switched(loaded, export), drawn_by(load_pipeline(export)))


def test_after_a_broken_export_the_next_is_as_it_should_be(
    tiny_model: Path, tmp_path: Path
) -> None:
    good, broken = tmp_path / "step-00000001", tmp_path / "step-00000002"
    for step, folder in ((1, good), (2, broken)):
        publish_lora_export(folder, tiny_model, step, final=False, strength=0.5)
    file = broken / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    loaded = LoadedModel()
    expected = switched(loaded, good)
    with pytest.raises(BrokenFolder, match=r"step-00000002.*pytorch_lora_weights\.safetensors"):
        loaded.switch(find_named(str(broken)))
    assert torch.equal(switched(loaded, good), expected)


@pytest.mark.parametrize("how", [{"unet": "lora", "lora": LORA}, {"unet": "full"}])
def test_compiled_networks_draw_the_same_and_take_new_weights_without_compiling_again(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    eager = functools.partial(torch.compile, backend="aot_eager")  # the kernels are torch's affair
    monkeypatch.setattr(torch, "compile", eager)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = model_of("sd1")
    exports = [publish_export(tmp_path, model, step, **how) for step in (1, 2, 3)]
    loaded = LoadedModel(compiled=True, channels_last=True)
    graphs = []
    for export in exports:
        expected = drawn_by(load_pipeline(export))
        torch.testing.assert_close(switched(loaded, export), expected, atol=1e-4, rtol=1e-4)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    weight = loaded.switch(find_named(str(exports[-1]))).unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert 0 < graphs[0] == graphs[-1]
