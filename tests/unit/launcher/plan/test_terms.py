"""What terms and rewards are said to hold, against the tensors that torch really holds."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lines_of_text import batch_of_lines
from benchmarks.memory import most_above
from benchmarks.models import new_networks
from launcher.plan import terms
from launcher.plan.blocks import decoder_blocks
from launcher.plan.headers import network_shapes
from launcher.plan.hours import Asked
from launcher.plan.memory import memory_at
from launcher.plan.model import Model
from launcher.plan.pickled import read_pickled
from launcher.plan.plan import plan
from launcher.plan.rewards import reward_judges
from launcher.plan.speed import Machines, picture_flop
from launcher.plan.workload import Workload, workload_of
from launcher.recipe import load_recipe
from tests.conftest import CHECKOUT, load_tiny, save_tiny_model, train_config
from trainer.config import TrainConfig
from trainer.models.config import NetworksConfig
from trainer.objectives.config import CharacterLossConfig, ObjectiveConfig, OcrLossConfig
from trainer.objectives.reward_config import RewardConfig

SIDE = 256  # pixels: activations are then many times the tiny model's weights
MINI = CHECKOUT / "recipes" / "mini.yaml"
ONE = Machines(nodes=1, gpus_per_node=1, gpu_memory_gb=None)
OCR = ObjectiveConfig(ocr=OcrLossConfig())


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with 16 channels in its autoencoder: to so many AVX-512 pads fewer."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    save_tiny_model(folder, autoencoder=(16, 16, 16, 16))
    return folder


def held_bytes(forward: Callable[[], Any], networks: Any) -> int:
    """Of the tensors that autograd keeps of a forward pass, weights left out."""
    import torch

    own = {w.untyped_storage().data_ptr() for w in [*networks.parameters(), *networks.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = forward()
    assert answer.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def work_of(config: TrainConfig, model: Path) -> Workload:
    return workload_of(config, network_shapes(str(model)), SIDE, SIDE)


def predicted_bytes(config: TrainConfig, model: Path) -> float:
    """Activations and gradients at the worst moment of a step."""
    memory = memory_at(0, config, work_of(config, model), 1)
    assert memory.moment == "backward pass"
    return memory.activations + memory.gradients


def measured_bytes(config: TrainConfig, model: Path) -> int:
    """By how much a forward and a backward pass go above what was there before them."""
    import torch

    from trainer.models.trained import Trained
    from trainer.train import open_objective

    torch.set_num_threads(1)
    family = load_tiny(model)
    objective = open_objective(family, config)
    trained = Trained(family, config)
    batch = batch_of_lines(config.micro_batch or 1, SIDE, 1)
    return most_above(lambda: objective(trained, batch, step=0).total.backward())


def reward_config(model: Path, **changes: Any) -> TrainConfig:
    """Adapters tuned by a CLIP; `changes` are of the reward."""
    keys: dict[str, Any] = {
        "rewards": {"clip": 1.0},
        "sampler_steps": 4,
        "height": SIDE,
        "width": SIDE,
        "networks": NetworksConfig(clip=str(model / "clip")),
    }
    return train_config(model, unet="lora", reward=RewardConfig(**keys | changes))


def test_decoding_keeps_what_autograd_keeps() -> None:
    import torch

    vae = new_networks("tiny")["vae"].requires_grad_(False)
    shapes = shapes_of(vae)
    latents = torch.randn(1, 4, 8, 12, requires_grad=True)
    decoding = terms.decoding_of(decoder_blocks({"vae": shapes}, 8, 12), 64, 96)
    held = held_bytes(lambda: vae.decode(latents).sample, vae)
    assert 4 * decoding.kept == pytest.approx(held, rel=0.01)


def test_a_segmenter_keeps_what_autograd_keeps(tiny_model: Path, tmp_path: Path) -> None:
    import torch

    from trainer.models.segmenter import Segmenter, load_segmenter, save_segmenter

    path = tmp_path / "segmenter.safetensors"
    save_segmenter(Segmenter(4, (8, 16, 32)), path)
    characters = CharacterLossConfig(segmenter=path)
    config = train_config(tiny_model, objective=ObjectiveConfig(characters=characters))
    judges = terms.term_judges(config, (18, 33))
    segmenter = load_segmenter(path, 4)
    latents = torch.randn(1, 4, 18, 33, requires_grad=True)
    labels = torch.zeros(1, 18, 33, dtype=torch.int64)
    held = held_bytes(
        lambda: torch.nn.functional.cross_entropy(segmenter(latents), labels), segmenter
    )
    assert judges.kept == pytest.approx(held, rel=0.05)
    weights = [*segmenter.parameters(), *segmenter.buffers()]
    assert judges.weights == pytest.approx(sum(w.nbytes for w in weights), rel=0.01)
    assert not judges.assumed


def test_a_segmenter_as_torch_saves_it_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    import torch

    from trainer.models.segmenter import Segmenter, save_segmenter

    segmenter, found = Segmenter(4, (8, 16)), []
    save_segmenter(segmenter, tmp_path / "one.safetensors")
    parallel = {f"module.{name}": tensor for name, tensor in segmenter.state_dict().items()}
    torch.save(parallel, tmp_path / "one.pth")
    for name in ("one.safetensors", "one.pth"):
        characters = CharacterLossConfig(segmenter=tmp_path / name)
        config = train_config(tiny_model, objective=ObjectiveConfig(characters=characters))
        found.append(terms.term_judges(config, (8, 8)))
    assert found[0] == found[1]
    assert found[0].kept


def test_a_pickle_of_more_than_weights_is_not_run(tmp_path: Path) -> None:
    import torch

    torch.save({"path": tmp_path}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no file of weights that plan reads: it holds pathlib"):
        read_pickled(tmp_path / "other.pth")


@pytest.mark.parametrize("width_px", [64, 320])
def test_a_crop_takes_what_the_recogniser_takes_of_it(width_px: int) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from trainer.models.recogniser import load_recogniser

    torch.set_num_threads(1)
    recogniser = load_recogniser(None)
    crop = torch.rand(1, 3, 48, width_px, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        held = held_bytes(lambda: recogniser(crop).features, recogniser)
    judges = terms.recogniser(1, width_px, readings=1)
    assert held == pytest.approx(judges.kept, rel=0.03)
    there = judges.flop - terms.CROP_BACKWARD_FLOP * width_px / terms.CROP_WIDTH_PX
    assert counter.get_total_flops() == pytest.approx(there, rel=0.03)
    weights = [*recogniser.parameters(), *recogniser.buffers()]
    assert sum(w.nbytes for w in weights) == pytest.approx(terms.RECOGNISER_BYTES, rel=0.01)


def test_a_clip_keeps_what_autograd_keeps(tiny_model: Path) -> None:
    import torch

    from trainer.models.clip import Clip, image_vectors

    clip = Clip(tiny_model / "clip")
    side = clip.model.config.vision_config.image_size
    pixels = torch.rand(1, 3, side, side, requires_grad=True)
    judges = reward_judges(reward_config(tiny_model, grad_steps=1))
    assert judges.weights == sum(w.nbytes for w in clip.model.parameters())
    held = held_bytes(lambda: image_vectors(clip.model, pixels), clip.model)
    assert judges.kept == pytest.approx(held, rel=0.05)


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_ocr_loss_holds_what_is_predicted(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, pictures: int
) -> None:
    monkeypatch.setattr(terms, "LINES", 1)
    config = train_config(tiny_model, objective=OCR, global_batch=pictures, micro_batch=pictures)
    predicted = predicted_bytes(config, tiny_model)
    assert predicted == pytest.approx(measured_bytes(config, tiny_model), rel=0.15)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_rewards_hold_what_is_predicted(wide_model: Path, checkpoint: bool, steps: int) -> None:
    config = reward_config(wide_model, grad_steps=steps, checkpoint=checkpoint)
    predicted = predicted_bytes(config, wide_model)
    assert predicted == pytest.approx(measured_bytes(config, wide_model), rel=0.15)


def test_encoding_holds_what_is_predicted(tiny_model: Path) -> None:
    import torch

    vae = new_networks("tiny")["vae"].requires_grad_(False)
    networks = {**network_shapes(str(tiny_model)), "vae": shapes_of(vae)}
    predicted = workload_of(train_config(tiny_model), networks, SIDE, SIDE).encoding
    pixels = torch.rand(1, 3, SIDE, SIDE)
    held = most_above(lambda: vae.encode(pixels))
    assert 4 * predicted == pytest.approx(held, rel=0.05)


def test_pictures_that_are_decoded_at_once_are_those_of_the_trainer() -> None:
    from trainer.objectives import decoding

    assert decoding.PIXELS_AT_ONCE == terms.PIXELS_AT_ONCE


def test_crops_are_padded_as_the_trainer_pads_them() -> None:
    from trainer.models import recogniser

    assert recogniser.WIDTH_STEP_PX == terms.WIDTH_STEP_PX
    assert terms.crop_width_px(48, 321) == 352


def shapes_of(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


def model_of(sizes: Mapping[str, Any]) -> Model:
    networks = {name: shapes_of(network) for name, network in sizes.items()}
    return Model(networks=networks, height=512, width=512, size_from="")


@pytest.fixture(scope="module")
def sd15() -> Model:
    """Stable Diffusion 1.5 as `plan` sees it."""
    import torch

    with torch.device("meta"):
        return model_of(new_networks("sd15"))


def test_decoding_takes_three_times_the_decoder(tiny_model: Path, sd15: Model) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        decoder = new_networks("sd15")["vae"].decoder
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            decoder(torch.empty(1, 4, 64, 64))
    plain = picture_flop(train_config(tiny_model), sd15)
    with_ocr = picture_flop(train_config(tiny_model, objective=OCR), sd15)
    assert plain["judge"] == 0
    readings = terms.LINES * (2 * terms.CROP_FLOP + terms.CROP_BACKWARD_FLOP)
    assert with_ocr["judge"] == pytest.approx(3 * counter.get_total_flops() + readings)
    assert with_ocr["train"] == plain["train"]


def test_steps_that_are_not_learnt_through_take_one_call_of_two_rows(
    tiny_model: Path, sd15: Model
) -> None:
    config = reward_config(tiny_model, sampler_steps=25, grad_steps=5, guidance=7.5)
    call = picture_flop(train_config(tiny_model, unet="lora"), sd15)["train"] / 2
    assert picture_flop(config, sd15)["train"] == pytest.approx(2 * (20 + 5 * 3) * call)
    assert config.reward
    kept = replace(config, reward=replace(config.reward, checkpoint=False, guidance=1.0))
    assert picture_flop(kept, sd15)["train"] == pytest.approx((20 + 5 * 2) * call)


def test_a_page_tells_what_is_assumed_and_what_is_not_counted() -> None:
    ocr = plan(load_recipe(MINI, ["train.objective.ocr={}"]), ONE, Asked())
    assert "PP-OCRv6 small and reads 1 line of 48 x 160 pixels" in ocr
    changes = ["train.objective.caption_dropout=0", "train.reward.rewards={hps_v2: 1}"]
    page = plan(load_recipe(MINI, changes), ONE, Asked())
    assert "512 x 512 pixels (train.reward)" in page
    assert "the reward hps_v2 is not counted: its network is no CLIP of Transformers" in page
