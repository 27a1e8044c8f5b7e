"""What a recipe is said to take, against what torch counts on the same networks."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from launcher.plan.blocks import below, blocks_of
from launcher.plan.failures import Failing, between_failures_s
from launcher.plan.headers import Shapes, find_folder, network_shapes, read_header
from launcher.plan.hours import Asked, best_save_every, checkpoint_bytes, failing_of, speeds_of
from launcher.plan.memory import BUCKET_ELEMENTS, STAGES
from launcher.plan.model import Model, open_model
from launcher.plan.plan import needed_gib, plan, recommended_stage, stage_memories
from launcher.plan.speed import GPUS, Machines, computing_s, picture_flop, sending_s, sent_bytes
from launcher.plan.workload import trained_numel
from launcher.recipe import load_recipe
from tests.conftest import CHECKOUT, load_tiny, train_config

MINI = CHECKOUT / "recipes" / "mini.yaml"
ONE = Machines(nodes=1, gpus_per_node=1)


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

    from launcher.plan.workload import workload_of
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


@pytest.mark.parametrize(
    ("gpus", "save_s", "restart_s", "minutes", "goodput"),
    [
        (64, 30, 180, 218, 0.995),
        (1024, 30, 180, 55, 0.981),
        (1024, 60, 600, 77, 0.971),
        (16_384, 30, 180, 13.7, 0.910),  # over 90 % is what was published of such a run
    ],
)
def test_goodput_is_that_of_the_formulas_by_hand(
    gpus: int, save_s: float, restart_s: float, minutes: float, goodput: float
) -> None:
    failing = Failing(between_s=between_failures_s(gpus), save_s=save_s, restart_s=restart_s)
    assert failing.best_interval_s / 60 == pytest.approx(minutes, rel=0.01)
    assert failing.goodput(failing.best_interval_s) == pytest.approx(goodput, abs=0.0006)


def test_no_other_interval_loses_less_than_the_best() -> None:
    failing = Failing(between_s=between_failures_s(1024), save_s=10)
    best = failing.best_interval_s
    for other in (best / 3, best / 1.5, best * 1.5, best * 3):
        assert failing.goodput(other) < failing.goodput(best)
    assert failing.goodput(failing.between_s * 10) == 0  # fails oftener than it saves


def test_16_384_gpus_fail_every_three_hours_as_was_published() -> None:
    assert between_failures_s(16_384) / 3600 == pytest.approx(54 * 24 / 419)


def test_what_ranks_send_follows_from_the_stage(model: Model, tiny_model: Path) -> None:
    from trainer.config import ZeroConfig

    config = train_config(tiny_model, precision="bf16", device="cuda", global_batch=32)
    weights = 2 * sum(map(prod, model.networks["unet"].values()))

    def sent(stage: Any, ranks: int) -> float:
        return sent_bytes(replace(config, zero=ZeroConfig(stage=stage)), model, ranks) / weights

    assert sent(0, 1) == 0
    assert sent(0, 8) == sent(1, 8) == pytest.approx(2 * 7 / 8)  # 4 passes, reduced at the last
    assert sent(2, 8) == pytest.approx((4 + 1) * 7 / 8)
    assert sent(3, 8) == pytest.approx(4 * 3 * 7 / 8)
    assert sent(2, 32) == pytest.approx(2 * 31 / 32)


def test_the_slowest_link_sets_the_time(model: Model, tiny_model: Path) -> None:
    config = train_config(tiny_model, precision="bf16", device="cuda", global_batch=16)
    machines = Machines(nodes=2, gpus_per_node=8, gbit_per_s=200)
    a100, h100 = GPUS
    assert sending_s(config, model, machines, a100) == sending_s(config, model, machines, h100)
    faster = replace(machines, gbit_per_s=400)
    assert sending_s(config, model, machines, a100) == pytest.approx(
        2 * sending_s(config, model, faster, a100)
    )
    alone = replace(machines, nodes=1, gpus_per_node=16)
    assert sending_s(config, model, alone, a100) < sending_s(config, model, faster, a100) / 5


def test_a_step_of_stable_diffusion_takes_as_long_as_was_published(
    model: Model, tiny_model: Path
) -> None:
    # MosaicML: 36.3 pictures/s on an A100 at 512 pixels, latents encoded before: 87 TFLOP/s.
    config = train_config(tiny_model, precision="bf16", device="cuda", global_batch=363)
    config = replace(config, data=replace(config.data, cache=tiny_model))
    assert computing_s(config, model, 1, GPUS[0]) == pytest.approx(10, rel=0.02)


def test_hours_and_cost_follow_from_speed_goodput_and_price() -> None:
    keys = ["train.device=cuda", "train.precision=bf16", "train.steps=36000"]
    recipe = load_recipe(MINI, [*keys, "train.global_batch=32"])
    machines = Machines(nodes=1, gpus_per_node=8)
    page = plan(recipe, machines, Asked(images_per_s=4.0, price=2.5))
    lines = [line.rpartition("  ") for line in page.splitlines()]
    rows = {title.strip(): number for title, _, number in lines}
    failing = failing_of(recipe.train, open_model(recipe.train), machines)
    assert failing is not None
    goodput = failing.goodput(160 * 1.0)  # 32 pictures at 4 a second on 8 GPUs: a second a step
    assert rows["goodput, saving every 160 steps"] == f"{goodput:.2%}"
    assert rows["hours"] == f"{10 / goodput:.2f}"
    assert rows["GPU-hours"] == f"{80 / goodput:.1f}"
    assert rows["cost, at 2.5"] == f"{200 / goodput:.2f}"
    best = best_save_every(recipe.train, 1.0, failing)
    assert rows["least is lost by saving every … steps"] == f"{best:,}"


def test_a_run_that_fails_oftener_than_it_saves_never_ends() -> None:
    keys = ["train.device=cuda", "train.precision=bf16", "train.global_batch=131072"]
    many = Machines(nodes=16_384, gpus_per_node=8)
    page = plan(load_recipe(MINI, keys), many, Asked(images_per_s=0.001))
    assert ["hours", "inf"] in [line.split() for line in page.splitlines()]


def test_a_cpu_has_no_hours_until_it_is_measured_and_no_failures() -> None:
    recipe = load_recipe(MINI)
    two = Machines(nodes=1, gpus_per_node=2)
    assert "--images-per-s says what one rank does" in plan(recipe, two, Asked())
    page = plan(recipe, two, Asked(images_per_s=32.0))
    assert page.splitlines()[-1].split() == ["hours", "0.07"]  # 480 steps of half a second
    assert "goodput" not in page
    assert speeds_of(recipe.train, open_model(recipe.train), two, None) == []


def test_learning_takes_three_passes_and_adapters_two(model: Model, tiny_model: Path) -> None:
    full = picture_flop(train_config(tiny_model), model)["train"]
    lora = picture_flop(train_config(tiny_model, unet="lora"), model)["train"]
    assert full / 1e12 == pytest.approx(2.41, abs=0.005)
    assert lora / full == pytest.approx(2 / 3)


def test_a_page_tells_what_to_change_so_that_it_fits() -> None:
    changes = ["train.device=cuda", "train.micro_batch=32", "train.data.words.width=1024"]
    recipe = load_recipe(MINI, [*changes, "train.data.words.height=1024"])
    needed = [needed_gib(m) for m in stage_memories(recipe.train, open_model(recipe.train), 1)]
    page = plan(recipe, replace(ONE, gpu_memory_gb=min(needed) - 1), Asked())
    assert "does not fit at any stage; it would with --set train.speed." in page
    assert "train.zero.stage 2 fits" in plan(recipe, replace(ONE, gpu_memory_gb=500), Asked())


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
