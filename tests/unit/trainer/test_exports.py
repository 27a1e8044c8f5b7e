"""Exports load in plain diffusers from every layout, and answer as the live networks did."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from safetensors import safe_open
from torch import Tensor

from cluster.run_folder import publish
from tests.conftest import load_tiny, train_config
from trainer.config import LoraConfig
from trainer.models.digest import weights_digest
from trainer.models.exports import save_export
from trainer.models.family import Family
from trainer.models.pipeline import load_family, load_pipeline
from trainer.models.samplers import FLOW, new_sampler
from trainer.models.trained import Trained

ModelOf = Callable[[str], Path]
LAYOUTS = ("pytorch_lora_weights.safetensors", "lora_kohya.safetensors")
LORA = LoraConfig(rank=4, alpha=16, dropout=0.1)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_adapters_answer_as_the_live_ones_in_both_layouts(
    model_of: ModelOf, tmp_path: Path, name: str
) -> None:
    model = model_of(name)
    family, facts = export(tmp_path, model, unet="lora", text_encoder="lora", lora=LORA)
    live, base = latents(family.pipeline(ddim(family.scheduler))), latents(plain(model))
    assert (live - base).abs().mean() > 0.05 * base.abs().mean()
    for layout in LAYOUTS:
        pipeline = plain(model)
        pipeline.load_lora_weights(tmp_path, weight_name=layout)
        torch.testing.assert_close(latents(pipeline), live, rtol=1e-4, atol=1e-4)
    assert facts["kind"] == "lora"
    assert facts["base"] == str(model)


@pytest.mark.parametrize(
    ("name", "version", "layers"),
    [
        ("sd1", "sd_v1", ("lora_unet_up_blocks_1_attentions_2_", "lora_te_text_model_encoder_")),
        ("sd2", "sd_v2", ("lora_unet_mid_block_attentions_0_", "lora_te_text_model_encoder_")),
        # XL's UNet was trained on under the names of its first code, and web UIs expect them.
        (
            "sdxl",
            "sdxl_base_v1-0",
            ("lora_unet_output_blocks_5_1_", "lora_te2_text_model_encoder_"),
        ),
    ],
)
def test_kohya_files_tell_web_uis_what_they_ask(
    model_of: ModelOf, tmp_path: Path, name: str, version: str, layers: tuple[str, ...]
) -> None:
    _, facts = export(tmp_path, model_of(name), unet="lora", text_encoder="lora", lora=LORA)
    with safe_open(tmp_path / LAYOUTS[1], "pt") as file:
        told, names = file.metadata(), list(file.keys())
        alphas = {file.get_tensor(key).item() for key in names if key.endswith(".alpha")}
    assert alphas == {16}
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("4", "16.0")
    assert (told["ss_base_model_version"], told["ss_v2"]) == (version, str(name == "sd2"))
    assert facts["web_ui_hashes"] == {LAYOUTS[1]: told["sshs_model_hash"][:12]}
    assert len(told["sshs_legacy_hash"]) == 8
    assert all(any(key.startswith(layer) for key in names) for layer in layers)


@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_a_model_trained_whole_answers_as_the_live_one_from_folder_and_file(
    model_of: ModelOf, tmp_path: Path, name: str
) -> None:
    model = model_of(name)
    family, facts = export(tmp_path, model, unet="full", text_encoder="full")
    live = latents(family.pipeline(ddim(family.scheduler)))
    assert (live - latents(plain(model))).abs().mean() > 0.01
    single = load_pipeline(tmp_path / "model.safetensors", model_config=str(tmp_path))
    for pipeline in (plain(tmp_path), load_pipeline(tmp_path), single):
        pipeline.scheduler = ddim(pipeline.scheduler)
        torch.testing.assert_close(latents(pipeline), live, rtol=1e-4, atol=1e-4)
    assert (facts["kind"], facts["base"]) == ("full", None)
    assert (tmp_path / "text_encoder" / "model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' solver, of NumPy 2
def test_a_model_of_the_flow_is_sampled_along_it_as_it_comes(
    model_of: ModelOf, tmp_path: Path
) -> None:
    family, facts = export(tmp_path, model_of("sd1"), prediction=FLOW)
    live = latents(family.pipeline(new_sampler(family.scheduler.config, FLOW)))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert pipeline.scheduler.config.prediction_type == FLOW == facts["prediction"]
    torch.testing.assert_close(latents(pipeline), live, rtol=1e-4, atol=1e-4)
    # The straight path by hand: from noise at s = 0.999, an Euler step to the middle, one to 0.
    sigmas = [*pipeline.scheduler.sigmas.tolist()]
    assert sigmas == pytest.approx([0.999, 0.4995, 0.0], abs=1e-3)


def test_adapters_beside_a_whole_text_encoder_are_loaded_with_it(
    model_of: ModelOf, tmp_path: Path
) -> None:
    staging, final = tmp_path / "staging", tmp_path / "step-00000001"
    family, facts = export(staging, model_of("sd1"), unet="lora", text_encoder="full", lora=LORA)
    publish(staging, final, facts)
    live = latents(family.pipeline(ddim(family.scheduler)))
    pipeline = load_pipeline(final)
    pipeline.scheduler = ddim(pipeline.scheduler)
    torch.testing.assert_close(latents(pipeline), live, rtol=1e-4, atol=1e-4)
    assert facts["kind"] == "mixed"


def test_a_whole_export_is_in_sixteen_bits_and_keeps_its_schedule(
    model_of: ModelOf, tmp_path: Path
) -> None:
    half = {"dtype": torch.float16, "prediction": "v_prediction"}
    _, facts = export(tmp_path, model_of("turbo"), unet="full", **half)
    for file in (*tmp_path.glob("*/*.safetensors"), tmp_path / "model.safetensors"):
        with safe_open(file, "pt") as opened:
            tensors = {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        assert tensors <= {"F16", "F32"} if file.parent == tmp_path else tensors == {"F16"}
    scheduler = plain(tmp_path, torch.float16).scheduler
    assert isinstance(scheduler, EulerDiscreteScheduler)
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.config.prediction_type == "v_prediction"
    index = (tmp_path / "model_index.json").read_text()
    assert str(model_of("turbo")) not in index
    digest = weights_digest(tmp_path / "model.safetensors")
    assert digest == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert facts["web_ui_hashes"] == {"model.safetensors": digest[:10]}


def test_an_export_leaves_alone_what_training_beside_it_shares(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[torch.dtype] = []
    monkeypatch.setattr(torch, "set_default_dtype", dtypes.append)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail(f"seeded with {seed}"))
    family = load_tiny(model_of("sd1"))
    config = train_config(model_of("sd1"), unet="lora", text_encoder="full")
    weights = dict(Trained(family, config).named_parameters())
    chance = torch.get_rng_state()
    half, prediction = torch.float16, "epsilon"
    save_export(tmp_path, family, config, trainable(weights), prediction=prediction, dtype=half)
    assert torch.equal(torch.get_rng_state(), chance)
    assert set(dtypes) == {torch.float32}


def test_adapters_of_a_single_file_name_it_and_its_configs(
    model_of: ModelOf, tmp_path: Path
) -> None:
    model = model_of("sdxl")
    export(tmp_path / "whole", model, unet="full")
    file, staging, final = (tmp_path / n for n in ("whole/model.safetensors", "a", "step-00000001"))
    family, facts = export(staging, file, config_folder=model, unet="lora", lora=LORA)
    publish(staging, final, facts)
    live = latents(family.pipeline(ddim(family.scheduler)))
    pipeline = load_pipeline(final)
    pipeline.scheduler = ddim(pipeline.scheduler)
    torch.testing.assert_close(latents(pipeline), live, rtol=1e-4, atol=1e-4)
    assert (facts["base"], facts["base_config"]) == (str(file), str(model))

    digest = weights_digest(final)
    manifest = json.loads((final / "manifest.json").read_text())
    (final / "manifest.json").write_text(json.dumps(manifest | {"base_config": str(tmp_path)}))
    assert weights_digest(final) != digest


def test_the_export_of_a_base_is_its_base(model_of: ModelOf, tmp_path: Path) -> None:
    model, final = model_of("sd1"), tmp_path / "step-00000000"
    (tmp_path / "staging").mkdir()
    publish(tmp_path / "staging", final, {"kind": "base", "base": str(model)})
    assert torch.equal(latents(load_pipeline(final)), latents(load_pipeline(model)))
    assert weights_digest(final) == weights_digest(model)


def export(
    folder: Path,
    model: Path,
    *,
    dtype: torch.dtype = torch.float32,
    prediction: str | None = None,
    config_folder: Path | None = None,
    **how: Any,
) -> tuple[Family, dict[str, Any]]:
    """The live networks, moved at random as training would, and what their export says."""
    folder.mkdir(exist_ok=True)
    family = load_tiny(model) if config_folder is None else load_single(model, config_folder)
    config = train_config(model, **how)
    trained = Trained(family, config).eval()
    torch.manual_seed(1)
    weights = trainable(dict(trained.named_parameters()))
    for name, weight in weights.items():
        weight += (0.2 if "lora_" in name else 0.02) * torch.randn_like(weight)
    prediction = prediction or family.scheduler.config.prediction_type
    facts = save_export(folder, family, config, weights, prediction=prediction, dtype=dtype)
    return family, facts


def trainable(weights: dict[str, Any]) -> dict[str, Tensor]:
    """What of a module's weights is trained, as a trainer gathers it."""
    return {name: weight.detach() for name, weight in weights.items() if weight.requires_grad}


def load_single(file: Path, config: Path) -> Family:
    """A family from a single file."""
    dtype = torch.float32
    return load_family(
        str(file), device=torch.device("cpu"), dtype_of=lambda _: dtype, model_config=str(config)
    )


def plain(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """What a user has who loads a folder with diffusers alone."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
    if dtype == torch.float32:
        pipeline.scheduler = ddim(pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ddim(scheduler: Any) -> DDIMScheduler:
    """One scheduler for all: Euler's of diffusers warns of NumPy 2."""
    made: DDIMScheduler = DDIMScheduler.from_config(scheduler.config)
    return made


def latents(pipeline: Any) -> Tensor:
    """What a pipeline makes of a caption in two steps, before it is a picture."""
    made: Tensor = pipeline(
        "a 'cat'",
        num_inference_steps=2,
        height=16,
        width=16,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images
    return made
