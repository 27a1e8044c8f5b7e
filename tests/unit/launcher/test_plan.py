"""What a recipe is said to take, against what torch counts on the same networks."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from launcher.blocks import below, blocks_of
from launcher.headers import Shapes, find_folder, network_shapes, read_header
from launcher.memory import BUCKET_ELEMENTS, STAGES
from launcher.plan import (
    Machines,
    Model,
    checkpoint_bytes,
    needed_gib,
    open_model,
    picture_flop,
    plan,
    recommended_stage,
    save_interval_s,
    stage_memories,
)
from launcher.recipe import load_recipe
from launcher.workload import trained_numel
from tests.conftest import CHECKOUT, load_tiny, train_config

MINI = CHECKOUT / "recipes" / "mini.yaml"
ONE = Machines(nodes=1, gpus_per_node=1, gpu_memory_gb=None)


def shapes_of(network: Any) -> Shapes:
    """As a header tells them."""
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


@pytest.fixture(scope="module")
def sd15() -> Mapping[str, Any]:
    """Stable Diffusion 1.5's networks, without values."""
    import torch

    from benchmarks.models import new_networks

    with torch.device("meta"):
        return new_networks("sd15")


@pytest.fixture
def model(sd15: Mapping[str, Any]) -> Model:
    """The same as `plan` sees it."""
    networks = {name: shapes_of(network) for name, network in sd15.items()}
    return Model(networks=networks, height=512, width=512, size_from="")


def test_headers_tell_the_weights_that_loading_finds(tiny_model: Path) -> None:
    family = load_tiny(tiny_model)
    for name, shapes in network_shapes(str(tiny_model)).items():
        network = {**family.networks, "vae": family.vae}[name]
        assert sum(map(prod, shapes.values())) == sum(w.numel() for w in network.parameters())


def test_a_network_in_several_files_is_read_whole(tiny_model: Path, tmp_path: Path) -> None:
    family = load_tiny(tiny_model)
    family.denoiser.save_pretrained(tmp_path / "unet", max_shard_size="100KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    assert network_shapes(str(tmp_path))["unet"] == shapes_of(family.denoiser)


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((1000).to_bytes(8, "little") + b'{"a": {"dtype"')
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is not whole"):
        read_header(path)


def test_a_model_of_the_hub_is_found_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="no diffusers folder on this machine"):
        find_folder("some/model")
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").touch()
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    assert find_folder("some/model") == snapshot


def test_operations_are_those_that_torch_counts(sd15: Mapping[str, Any]) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as unet, torch.device("meta"):
        sd15["unet"](torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768))
    with torch.no_grad(), FlopCounterMode(display=False) as encoder, torch.device("meta"):
        sd15["vae"].encoder(torch.empty(1, 3, 512, 512))
    blocks = blocks_of(shapes_of(sd15["unet"]), 64, 64, 77)
    assert sum(block.flop for block in blocks) == unet.get_total_flops()
    assert unet.get_total_flops() / 1e12 == pytest.approx(0.803, abs=0.001)
    encoder_blocks = blocks_of(below(shapes_of(sd15["vae"]), "encoder."), 512, 512)
    assert sum(block.flop for block in encoder_blocks) == encoder.get_total_flops()


@pytest.mark.parametrize("how", ["full", "lora"])
def test_activations_are_those_that_autograd_keeps(tiny_model: Path, how: Any) -> None:
    import torch

    from launcher.workload import workload_of
    from trainer.models.trained import Trained

    config = train_config(tiny_model, unet=how)
    family = load_tiny(tiny_model)
    trained = Trained(family, config)
    weights = {w.untyped_storage().data_ptr() for w in trained.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        latents = torch.randn(2, 4, 16, 16)
        context = torch.randn(2, 40, 32)
        answer = family.denoiser(latents, torch.tensor([1, 2]), context).sample
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    work = workload_of(config, network_shapes(str(tiny_model)), 128, 128)
    predicted = 2 * 4 * sum(call.stays for call in work.calls)
    assert answer.requires_grad
    assert predicted == pytest.approx(counted, rel=0.08)


def test_adapters_are_counted_as_peft_makes_them(tiny_model: Path) -> None:
    from trainer.models.trained import Trained

    config = train_config(tiny_model, unet="lora", text_encoder="lora")
    trained = Trained(load_tiny(tiny_model), config)
    networks = network_shapes(str(tiny_model))
    predicted = sum(trained_numel(config, name, shapes) for name, shapes in networks.items())
    assert predicted == sum(w.numel() for w in trained.parameters() if w.requires_grad)


def test_higher_stages_keep_less_of_what_they_split(model: Model, tiny_model: Path) -> None:
    from trainer.config import EmaConfig

    config = train_config(
        tiny_model, precision="bf16", device="cuda", ema=EmaConfig(), global_batch=8
    )
    weights = sum(map(prod, model.networks["unet"].values()))
    zero, one, two, three = stage_memories(config, model, 8)
    assert zero.optimizer == pytest.approx(12 * weights)  # masters and two moments in fp32
    assert one.optimizer == two.optimizer == three.optimizer == pytest.approx(12 * weights / 8)
    assert three.weights == pytest.approx(2 * weights / 8)
    assert one.ema == pytest.approx(4 * weights / 8)
    assert zero.total > one.total > two.total


def test_recomputing_and_offloading_are_seen(model: Model, tiny_model: Path) -> None:
    from trainer.config import SpeedConfig, ZeroConfig

    config = train_config(
        tiny_model, precision="bf16", device="cuda", global_batch=16, micro_batch=16
    )
    plain = stage_memories(config, model, 1)[2]
    lean = replace(config, speed=SpeedConfig(gradient_checkpointing=True))
    assert stage_memories(lean, model, 1)[2].activations < plain.activations / 3
    offload = replace(config, zero=ZeroConfig(stage=2, offload_optimizer=True))
    assert stage_memories(offload, model, 1)[2].optimizer == 0
    assert stage_memories(offload, model, 1)[2].host > plain.optimizer


def test_every_weight_on_several_ranks_takes_stage_2_and_adapters_the_first_that_fits(
    tiny_model: Path,
) -> None:
    full, lora = train_config(tiny_model), train_config(tiny_model, unet="lora")
    assert recommended_stage(full, 8, [0, 1, 2, 3]) == 2
    assert recommended_stage(full, 8, [3]) == 3
    assert recommended_stage(full, 1, [0, 1, 2, 3]) == 0
    assert recommended_stage(lora, 8, [1, 2, 3]) == 1


def test_checkpoints_hold_masters_moments_and_average(model: Model, tiny_model: Path) -> None:
    from trainer.config import EmaConfig

    config = train_config(tiny_model, precision="bf16", ema=EmaConfig())
    size, export = checkpoint_bytes(config, model)
    assert size == pytest.approx(16 * 859.5e6, rel=1e-3)
    assert export == pytest.approx(2 * 1066.2e6, rel=1e-3)  # with the frozen networks


def test_saves_are_further_apart_where_they_cost_more_or_fewer_machines_fail() -> None:
    hourly = save_interval_s(1e9, nodes=16)
    assert save_interval_s(4e10, nodes=16) == pytest.approx(2 * hourly)
    assert save_interval_s(1e9, nodes=4) == pytest.approx(2 * hourly)


def test_learning_takes_three_passes_and_adapters_two(model: Model, tiny_model: Path) -> None:
    full = picture_flop(train_config(tiny_model), model)["train"]
    lora = picture_flop(train_config(tiny_model, unet="lora"), model)["train"]
    assert full / 1e12 == pytest.approx(2.41, abs=0.005)
    assert lora / full == pytest.approx(2 / 3)


def test_a_page_tells_what_to_change_so_that_it_fits() -> None:
    changes = ["train.device=cuda", "train.micro_batch=32", "train.data.words.width=1024"]
    recipe = load_recipe(MINI, [*changes, "train.data.words.height=1024"])
    needed = [needed_gib(m) for m in stage_memories(recipe.train, open_model(recipe.train), 1)]
    page = plan(recipe, replace(ONE, gpu_memory_gb=min(needed) - 1), None)
    assert "does not fit at any stage; it would with --set train.speed." in page
    assert "train.zero.stage 2 fits" in plan(recipe, replace(ONE, gpu_memory_gb=500), 4.0)
    assert "1.1 h at 4 pictures/s" in plan(recipe, ONE, 4.0)


def test_an_own_bucket_size_counts(model: Model, tiny_model: Path) -> None:
    settings = {"zero_optimization": {"reduce_bucket_size": 1000}}
    config = train_config(tiny_model, device="cuda", precision="bf16")
    own = replace(config, deepspeed=settings)
    saved = stage_memories(config, model, 1)[2].buffers - stage_memories(own, model, 1)[2].buffers
    assert saved >= 0
    assert len(stage_memories(own, model, 1)) == len(STAGES)


def test_the_buckets_are_those_of_the_engine() -> None:
    from trainer import engine

    assert engine.BUCKET_ELEMENTS == BUCKET_ELEMENTS


def test_a_pipeline_without_a_unet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer": ["diffusers", "X"]}))
    with pytest.raises(ValueError, match="has no unet"):
        network_shapes(str(tmp_path))
