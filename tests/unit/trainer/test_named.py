"""Models by name: adapters of every layout stand on a base, and what is wrong is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from cluster.run_folder import publish
from tests.conftest import load_tiny, publish_lora_export
from tests.unit.trainer.test_exports import export
from tests.unit.trainer.test_loaded import drawn_by
from trainer.config import LoraConfig
from trainer.models.digest import weights_digest
from trainer.models.named import find_named, named_digest, weights_of
from trainer.models.pipeline import load_pipeline

ModelOf = Callable[[str], Path]
LORA = LoraConfig(rank=4, alpha=16, dropout=0.1)
LAYOUTS = ("pytorch_lora_weights.safetensors", "lora_kohya.safetensors")


@pytest.mark.parametrize(("name", "layout"), [("sd1", LAYOUTS[0]), ("sdxl", LAYOUTS[1])])
def test_adapters_of_a_file_stand_on_the_base_that_is_named(
    model_of: ModelOf, tmp_path: Path, name: str, layout: str
) -> None:
    model, file = model_of(name), tmp_path / "a" / layout
    export(tmp_path / "a", model, unet="lora", text_encoder="lora", lora=LORA)
    found = find_named(f"{file}@{model}")
    assert (found.name, found.adapters) == (f"{layout} on {name}", file)
    drawn = drawn_by(load_pipeline(found.path))
    assert not torch.equal(drawn, drawn_by(load_pipeline(model)))
    assert torch.equal(drawn, drawn_by(load_pipeline(found.path)))  # no dropout is left on
    assert len({named_digest(found.path), named_digest(str(model)), weights_digest(file)}) == 3


def test_the_layouts_of_diffusers_and_kohya_draw_the_same(
    model_of: ModelOf, tmp_path: Path
) -> None:
    model = model_of("sd1")
    export(tmp_path, model, unet="lora", text_encoder="lora", lora=LORA)
    first, second = (drawn_by(load_pipeline(f"{tmp_path / layout}@{model}")) for layout in LAYOUTS)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_a_folder_of_peft_keeps_its_alpha_and_drops_its_dropout(
    model_of: ModelOf, tmp_path: Path
) -> None:
    family = load_tiny(model_of("sd1"))
    unet: Any = family.denoiser
    settings = PeftLoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, target_modules=["to_q", "to_v"])
    unet.add_adapter(settings)
    unet.eval()
    torch.manual_seed(3)
    for name, weight in unet.named_parameters():
        if "lora_" in name:
            weight.data += 0.3 * torch.randn_like(weight)
    live = drawn_by(family.pipeline(load_pipeline(model_of("sd1")).scheduler))
    folder = tmp_path / "adapter"
    folder.mkdir()
    layers = get_peft_model_state_dict(unet)
    tensors = {f"base_model.model.{name}": weight.contiguous() for name, weight in layers.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    settings.save_pretrained(folder)
    drawn = drawn_by(load_pipeline(f"{folder}@{model_of('sd1')}"))
    torch.testing.assert_close(drawn, live, rtol=1e-4, atol=1e-4)


def test_adapters_stand_on_a_single_file_that_stands_on_its_configs(
    model_of: ModelOf, tmp_path: Path
) -> None:
    model = model_of("sdxl")
    export(tmp_path / "whole", model, unet="full")
    export(tmp_path / "adapters", model, unet="lora", lora=LORA)
    single = tmp_path / "whole" / "model.safetensors"
    named = f"{tmp_path / 'adapters' / LAYOUTS[1]}@{single}@{model}"
    found = find_named(named)
    assert found.name == f"{LAYOUTS[1]} on model.safetensors"
    assert (found.source.weights, found.source.config) == (single, model)
    assert found.path == named
    whole = drawn_by(load_pipeline(f"{single}@{model}"))
    assert not torch.equal(drawn_by(load_pipeline(named)), whole)
    assert len({named_digest(named), named_digest(f"{single}@{model}")}) == 2


def test_the_digest_covers_adapters_base_and_configs_and_no_paths(
    tiny_model: Path, model_of: ModelOf, tmp_path: Path
) -> None:
    folder = tmp_path / "step-00000001"
    publish_lora_export(folder, tiny_model, 1, final=True, strength=1.0)
    file, copy = folder / LAYOUTS[0], tmp_path / "other.safetensors"
    copy.write_bytes(file.read_bytes())
    digest = named_digest(f"{file}@{tiny_model}")
    assert named_digest(f"{copy}@{tiny_model}") == digest
    assert named_digest(f"{file}@{model_of('sd1')}") != digest
    stronger = {name: 2 * weight for name, weight in load_file(copy).items()}
    save_file(stronger, tmp_path / "stronger.safetensors")
    assert named_digest(f"{tmp_path / 'stronger.safetensors'}@{tiny_model}") != digest
    assert named_digest(str(folder)) == weights_digest(folder)
    assert named_digest(str(tiny_model)) == weights_digest(tiny_model)


def test_the_base_of_a_run_is_one_model_whichever_way_it_is_named(
    model_of: ModelOf, tmp_path: Path
) -> None:
    model = model_of("sd1")
    export(tmp_path / "whole", model, unet="full")
    single = tmp_path / "whole" / "model.safetensors"
    (tmp_path / "staging").mkdir()
    facts = {"kind": "base", "base": str(single), "base_config": str(model)}
    publish(tmp_path / "staging", tmp_path / "step-00000000", facts)
    assert named_digest(str(tmp_path / "step-00000000")) == named_digest(f"{single}@{model}")


def test_an_at_sign_may_be_part_of_a_path(model_of: ModelOf, tmp_path: Path) -> None:
    folder = tmp_path / "me@home"
    export(folder, model_of("sd1"), unet="lora", lora=LORA)
    file = folder / LAYOUTS[0]
    found = find_named(f"{file}@{model_of('sd1')}")
    assert found.adapters == file
    assert weights_of(found.path) == str(file)


def test_what_cannot_be_meant_is_one_line(
    model_of: ModelOf, tiny_model: Path, tmp_path: Path
) -> None:
    model = model_of("sd1")
    export(tmp_path, model, unet="lora", lora=LORA)
    file, pickle = tmp_path / LAYOUTS[0], tmp_path / "old.bin"
    torch.save(load_file(file), pickle)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    (tmp_path / "peft" / "adapter_model.bin").write_bytes(pickle.read_bytes())
    for named, message in {
        str(file): rf"{file} holds adapters alone: name their base after an @, {file}@BASE",
        f"{file}@{file}@{model}": "cannot stand on .*: it holds adapters too",
        f"{file}@gone": "model 'gone' is neither a folder nor a file",
        f"gone.safetensors@{model}": "model 'gone.safetensors' is neither a folder nor a file",
        f"{model}@{tiny_model}": "only adapters and single files stand on something else",
        f"{pickle}@{model}": "holds adapters as a pickle: convert them to .safetensors",
        f"{tmp_path / 'peft'}@{model}": r"peft holds no adapter_model\.safetensors",
        "no/such": "model 'no/such' is neither a folder nor a file .* nor in the Hugging Face",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            find_named(named)
        assert "\n" not in str(error.value)


def test_adapters_that_do_not_fit_their_base_are_refused_and_not_passed_over(
    model_of: ModelOf, tiny_model: Path, tmp_path: Path
) -> None:
    export(tmp_path, model_of("sdxl"), unet="lora", text_encoder="lora", lora=LORA)
    for base in (tiny_model, model_of("sd1")):
        with pytest.raises(ValueError, match=rf"the adapters {tmp_path}.* do not fit their base"):
            load_pipeline(f"{tmp_path / LAYOUTS[0]}@{base}")
    weights = load_file(tmp_path / LAYOUTS[0])
    layer = next(iter(weights)).removesuffix(".lora_A.weight")
    save_file({**weights, f"{layer}.dora_scale": torch.ones(1)}, tmp_path / "dora.safetensors")
    with pytest.raises(ValueError, match="adapters of DoRA"):
        load_pipeline(f"{tmp_path / 'dora.safetensors'}@{model_of('sdxl')}")


def test_an_export_whose_adapters_are_gone_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step-00000001"
    publish_lora_export(folder, tiny_model, 1, final=True)
    assert json.loads((folder / "manifest.json").read_text())["kind"] == "lora"
    (folder / LAYOUTS[0]).unlink()
    with pytest.raises(ValueError, match=rf"export {folder} holds no {LAYOUTS[0]}"):
        find_named(str(folder))
