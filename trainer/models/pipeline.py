"""Loading models: whole for making pictures, network by network for training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig as PeftLoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn

from cluster.run_folder import verify
from trainer.models.adapter_files import PEFT_WEIGHTS, adapter_layers_in
from trainer.models.blended import blend, encoders_of
from trainer.models.family import Family
from trainer.models.named import NamedModel, Share, find_named
from trainer.models.source import Source, find_model
from trainer.models.stable_diffusion import StableDiffusion
from trainer.models.stable_diffusion_xl import StableDiffusionXL
from trainer.models.untrusted import tensors_of

PEFT_PREFIX = "base_model.model."
FAMILIES: tuple[type[Family], ...] = (StableDiffusion, StableDiffusionXL)


def family_of(source: Source) -> type[Family]:
    """The family of a model, by the class that its pipeline names."""
    name = str(source.index.get("_class_name"))
    for family in FAMILIES:
        if name in (pipeline.__name__ for pipeline in family.pipeline_classes):
            return family
    known = sorted(p.__name__ for family in FAMILIES for p in family.pipeline_classes)
    raise ValueError(f"model {source.config} is a {name}; what can be trained: {', '.join(known)}")


def load_family(
    model: str,
    *,
    device: torch.device,
    dtype_of: Callable[[str], torch.dtype],
    model_config: str | None = None,
) -> Family:
    """Load a model's networks, all frozen; `dtype_of` tells each one's dtype by its name.

    `model` and `model_config` as in `find_model`. ValueError if the model cannot be found, is not
    to be trusted, or is of no known family.
    """
    source = find_model(model, model_config)
    return family_of(source).load(source, dtype_of=dtype_of).to(device)


def load_pipeline(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    model_config: str | None = None,
) -> DiffusionPipeline:
    """Load an export of ours, or any model or blend of them as `named.py` spells it.

    An export is checked against its manifest first: BrokenFolder names what differs.
    """
    found = find_named(str(model) if model_config is None else f"{model}@{model_config}")
    for export in found.exports:
        verify(export)
    pipeline = _open_named(found, device=device, dtype=dtype)
    mix_encoders(pipeline, found.blend)
    return pipeline


def _open_named(model: NamedModel, *, device: str, dtype: torch.dtype) -> DiffusionPipeline:
    """A model with its adapters, its text encoders not mixed with others."""
    pipeline = open_pipeline(model.source, device=device, dtype=dtype)
    if model.adapters:
        load_adapters(pipeline, model.adapters)
    return pipeline


def mix_encoders(pipeline: DiffusionPipeline, shares: Sequence[Share]) -> None:
    """Have the pipeline of a blend's first model mix its text encoders with those of the others."""
    if not shares:
        return
    parts = [encoders_of(pipeline)]
    for share in shares[1:]:
        # Read whole, for adapters fit whole models alone; what is no text encoder is let go.
        other = _open_named(share.model, device="cpu", dtype=pipeline.text_encoder.dtype)
        parts.append(encoders_of(other).to(pipeline.device))
    blend(pipeline, parts, [share.weight for share in shares])


def open_pipeline(source: Source, *, device: str, dtype: torch.dtype) -> DiffusionPipeline:
    """A whole model, ready to make pictures."""
    family = family_of(source)
    pipeline = source.open(family.pipeline_classes[0], dtype=dtype, **family.pipeline_settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_adapters(pipeline: DiffusionPipeline, adapters: Path) -> None:
    """Put adapters upon the networks of a pipeline, from safetensors alone.

    `adapters` is a file in the layout of diffusers or of kohya, or a folder of PEFT's. ValueError
    if it is none that these networks can take whole.
    """
    file = adapters / PEFT_WEIGHTS if adapters.is_dir() else adapters
    tensors = tensors_of(file)
    if any("dora_scale" in name for name in tensors):
        raise ValueError(f"{file} holds adapters of DoRA, which diffusers would load in part")
    try:
        if adapters.is_dir():
            _load_peft(pipeline, adapters)
        else:
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, use_safetensors=True
            )
    except (RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"the adapters {file} do not fit their base: {first}") from error
    _check_fit(pipeline, file, adapter_layers_in(tensors))


def _load_peft(pipeline: DiffusionPipeline, folder: Path) -> None:
    """PEFT's folder says rank, alpha and more beside the weights, and not whose they are."""
    settings = PeftLoraConfig.from_pretrained(folder).to_dict()
    weights = load_file(folder / PEFT_WEIGHTS)
    layers = {f"unet.{name.removeprefix(PEFT_PREFIX)}": weight for name, weight in weights.items()}
    metadata = {f"unet.{key}": value for key, value in settings.items()}
    pipeline.unet.load_lora_adapter(layers, prefix="unet", metadata=metadata)


def _check_fit(pipeline: DiffusionPipeline, file: Path, wanted: int) -> None:
    """diffusers passes over what it knows no layer for, and switches on a dropout that it reads."""
    found = 0
    for network in pipeline.components.values():
        if isinstance(network, nn.Module):
            network.eval()
            found += sum(isinstance(layer, BaseTunerLayer) for layer in network.modules())
    if found != wanted:
        raise ValueError(
            f"the adapters {file} do not fit their base: it has {found} of their {wanted} layers"
        )
