"""Each family against diffusers' own pipeline, from a folder and from a single file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import load_tiny, train_config
from tests.unit.trainer.conftest import FAMILIES
from trainer.config import LoraConfig
from trainer.models.family import Family
from trainer.models.ldm import ldm_weights, unet_name
from trainer.models.pipeline import load_family, load_pipeline
from trainer.models.source import Source, find_model
from trainer.models.trained import Trained

ModelOf = Callable[[str], Path]
LAYER_NORM = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_denoiser_answers_as_in_diffusers_pipeline(model_of: ModelOf, name: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(model_of(name), dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    calls = record_unet(pipeline)
    size = (16, 24)
    pipeline("a 'cat'", num_inference_steps=1, height=size[0], width=size[1], output_type="latent")

    # Guidance asks twice: without a caption, which XL hears as zeros, and with it.
    family = load_tiny(model_of(name))
    conditioning = family.encode_tokens(family.tokenize(["", "a 'cat'"]))
    (noised, timestep), answer = calls[0]
    sizes = torch.tensor([[*size, 0, 0, *size]] * 2)
    ours = family.denoise(noised, timestep.expand(2), conditioning, sizes)
    torch.testing.assert_close(ours, answer, rtol=1e-5, atol=1e-6)


def test_an_xl_model_hears_how_its_pictures_were_framed(model_of: ModelOf) -> None:
    family = load_tiny(model_of("sdxl"))
    conditioning = family.encode_tokens(family.tokenize(["a"]))
    noised, timestep = torch.randn(1, 4, 8, 8), torch.tensor([500])
    whole, cropped = ([[16, 16, 0, 0, 16, 16]], [[64, 32, 8, 4, 16, 16]])
    answers = [
        family.denoise(noised, timestep, conditioning, torch.tensor(sizes))
        for sizes in (whole, cropped)
    ]
    assert not torch.allclose(*answers, atol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize(("unet", "text_encoder"), [("full", "lora"), ("lora", "full")])
def test_a_step_moves_every_network_that_is_trained(
    model_of: ModelOf, name: str, unet: str, text_encoder: str
) -> None:
    family = load_tiny(model_of(name))
    config = train_config(model_of(name), unet=unet, text_encoder=text_encoder)
    trained = Trained(family, config)
    weights = [weight for weight in trained.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    tokens, sizes = family.tokenize(["a 'b'", ""]), torch.tensor([[16, 16, 0, 0, 16, 16]] * 2)
    noised, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    losses = []
    for _ in range(2):
        loss = trained(family.predict, noised, timesteps, tokens, sizes).square().mean()
        loss.backward()
        losses.append(loss.item())
        moved = {n.partition(".")[0] for n, w in trained.named_parameters() if has_gradient(w)}
        optimizer.step()
        optimizer.zero_grad()
    assert moved == set(family.networks)
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_target_modules_of_no_text_encoder_are_named(model_of: ModelOf, name: str) -> None:
    lora = LoraConfig(text_encoder_target_modules=("query",))
    config = train_config(model_of(name), unet="frozen", text_encoder="lora", lora=lora)
    with pytest.raises(ValueError, match=r"\['query'\] match no layer of the CLIPTextModel"):
        Trained(load_tiny(model_of(name)), config)


def test_the_schedule_of_a_turbo_model_is_kept_for_training(model_of: ModelOf) -> None:
    schedule = load_tiny(model_of("turbo")).scheduler.config
    assert (schedule.timestep_spacing, schedule.beta_schedule) == ("trailing", "scaled_linear")
    assert load_tiny(model_of("sd2")).scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("down", "up", "settings", "tensors"),
    [
        ((CROSS[0],) * 3 + ("DownBlock2D",), ("UpBlock2D",) + (CROSS[1],) * 3, {}, 686),
        (
            ("DownBlock2D", CROSS[0], CROSS[0]),
            (CROSS[1], CROSS[1], "UpBlock2D"),
            {
                "transformer_layers_per_block": (1, 2, 10),
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 64,
            },
            1680,
        ),
    ],
    ids=["sd", "sdxl"],
)
def test_unets_of_the_real_shapes_go_into_a_single_file_and_back(
    down: tuple[str, ...], up: tuple[str, ...], settings: dict[str, Any], tensors: int
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 128, 128)[: len(down)],
            down_block_types=down,
            up_block_types=up,
            layers_per_block=2,
            cross_attention_dim=32,
            **settings,
        )
    weights = unet.state_dict()
    assert len(weights) == tensors
    single = {f"model.diffusion_model.{unet_name(n, unet.config)}": w for n, w in weights.items()}
    back = convert_ldm_unet_checkpoint(single, unet.config)
    assert {name: id(weight) for name, weight in back.items()} == {
        name: id(weight) for name, weight in weights.items()
    }


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_a_single_file_is_the_folder_that_it_was_made_of(
    model_of: ModelOf, tmp_path: Path, name: str
) -> None:
    folder, file = model_of(name), tmp_path / "model.safetensors"
    save_file(single_file_of(load_tiny(folder)), file)
    family = load_single(file, folder)
    assert_same_networks(family, load_tiny(folder))
    pipeline = load_pipeline(file, model_config=str(folder))
    assert type(pipeline).__name__ == family.source.index["_class_name"]


def test_a_ckpt_of_nothing_but_weights_is_read(model_of: ModelOf, tmp_path: Path) -> None:
    folder, file = model_of("sd1"), tmp_path / "model.ckpt"
    torch.save({"state_dict": single_file_of(load_tiny(folder)), "global_step": 7}, file)
    assert_same_networks(load_single(file, folder), load_tiny(folder))


def test_a_single_file_without_its_configs_says_where_to_put_them(
    model_of: ModelOf, tmp_path: Path
) -> None:
    tensors = single_file_of(load_tiny(model_of("sd1")))
    save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(
        ValueError, match=r"tokenizers of stable-diffusion-v1-5/.* set model_config"
    ):
        load_single(tmp_path / "one.safetensors", None)
    save_file({**tensors, "v_pred": torch.tensor([])}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="does not say what noise schedule it was trained on"):
        load_single(tmp_path / "v.safetensors", None)
    with pytest.raises(ValueError, match=r"model_config .* is for a single file of weights"):
        load_single(model_of("sd1"), model_of("sd1"))


def test_hub_names_and_the_configs_of_single_files_are_found_in_the_cache(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    for folder in ("refs", "snapshots"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    snapshot.symlink_to(model_of("sd1"))
    save_file(single_file_of(load_tiny(model_of("sd1"))), tmp_path / "one.safetensors")
    assert find_model("stable-diffusion-v1-5/stable-diffusion-v1-5") == Source(snapshot, snapshot)
    file = tmp_path / "one.safetensors"
    assert find_model(str(file)) == Source(file, snapshot)


def test_a_folder_of_pickles_of_weights_alone_is_read(model_of: ModelOf, tmp_path: Path) -> None:
    shutil.copytree(model_of("sd1"), tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*/*.safetensors"):
        name = "pytorch_model.bin" if path.stem == "model" else f"{path.stem}.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    assert_same_networks(load_tiny(tmp_path), load_tiny(model_of("sd1")))


def test_a_single_file_that_is_no_whole_model_is_refused(tmp_path: Path) -> None:
    save_file({"lora_unet_mid_block.alpha": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"is no whole model: it holds no denoiser"):
        load_single(tmp_path / "lora.safetensors", None)


def test_a_single_file_that_lacks_weights_is_refused(model_of: ModelOf, tmp_path: Path) -> None:
    tensors = single_file_of(load_tiny(model_of("sd1")))
    for number, name in enumerate(("model.diffusion_model.out.2.bias", LAYER_NORM)):
        file = tmp_path / f"{number}.safetensors"
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
        with pytest.raises(ValueError, match=r"cannot be loaded: it lacks"):
            load_single(file, model_of("sd1"))


def record_unet(pipeline: Any) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
    """What the pipeline's UNet is given of latents and timesteps, and answers."""
    calls: list[tuple[tuple[Tensor, Tensor], Tensor]] = []
    pipeline.unet.register_forward_hook(
        lambda _, given, answer: calls.append((given[:2], answer[0]))
    )
    return calls


def has_gradient(weight: Tensor) -> bool:
    """Whether the loss depends on a weight."""
    return weight.grad is not None and bool(weight.grad.any())


def single_file_of(family: Family) -> dict[str, Tensor]:
    """A family's weights as one file has them."""
    networks = {**family.networks, "vae": family.vae}
    tensors = ldm_weights(networks, family.web_ui_names.single_file)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def load_single(file: Path, config: Path | None) -> Family:
    """A family from a single file."""
    return load_family(
        str(file),
        device=CPU,
        dtype_of=lambda _: torch.float32,
        model_config=None if config is None else str(config),
    )


def assert_same_networks(ours: Family, theirs: Family) -> None:
    """That two families have the same weights, to the bit."""
    for name, network in {**theirs.networks, "vae": theirs.vae}.items():
        found = {**ours.networks, "vae": ours.vae}[name].state_dict()
        for key, weight in network.state_dict().items():
            assert torch.equal(found[key], weight), f"{name}.{key}"
