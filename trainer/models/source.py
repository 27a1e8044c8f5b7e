"""Where a model lies: a diffusers folder, its snapshot in the hub cache, or one file of weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError, infer_diffusers_model_type
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import constants
from torch import nn
from transformers.utils import logging as transformers_logging

from trainer.models.networks import cached_folder
from trainer.models.untrusted import SUFFIXES, check_folder, tensors_of

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

INDEX = "model_index.json"
# What a single file's configs are, where it can only be one; by diffusers' name of its kind. The
# weights of Stable Diffusion 2 look the same whether they predict noise or velocity.
CONFIGS = {
    "v1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "xl_base": "stabilityai/stable-diffusion-xl-base-1.0",
}
PARTS = {
    "denoiser": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.", "vae."),
    "text encoder": ("cond_stage_model.", "conditioner."),
}
"""What the names of a whole model's tensors begin with."""
MARKS = {"v_prediction": "v_pred", "flow_prediction": "flow_pred"}
"""The name of an empty tensor that says in a single file what the model predicts, if not noise."""


@dataclass(frozen=True)
class Source:
    """Where a model's weights and configs lie."""

    weights: Path
    """A diffusers folder, or one file of weights as web UIs load them."""
    config: Path
    """The diffusers folder of its configs, tokenizers and noise schedule; else `weights` itself."""

    @property
    def is_file(self) -> bool:
        """Whether the weights are a single file."""
        return self.weights != self.config

    @property
    def facts(self) -> dict[str, str | None]:
        """What the manifest of an export says of its base."""
        config = str(self.config.absolute()) if self.is_file else None
        return {"base": str(self.weights.absolute()), "base_config": config}

    @property
    def index(self) -> dict[str, Any]:
        """The classes of the pipeline and of its parts, as diffusers notes them."""
        index: dict[str, Any] = json.loads((self.config / INDEX).read_text())
        return index

    @property
    def text_encoder_configs(self) -> dict[str, dict[str, Any]]:
        """The configs of its text encoders, by name; ValueError names one that is not there."""
        parts = self.index.items()
        names = sorted(n for n, part in parts if n.startswith("text_encoder") and part[0])
        paths = {name: self.config / name / "config.json" for name in names}
        for path in paths.values():
            if not path.is_file():
                raise ValueError(f"model {self.weights} is not whole: {path} does not exist")
        return {name: json.loads(path.read_text()) for name, path in paths.items()}

    def open(
        self,
        cls: type[DiffusionPipeline],
        *,
        dtype: torch.dtype | dict[str, torch.dtype],
        **parts: Any,
    ) -> Any:
        """The whole pipeline on the CPU, `parts` in the place of its own; nothing is downloaded.

        `dtype` may be told by name for a folder only. ValueError names a file that is
        not to be trusted or not whole, or what is missing.
        """
        if not self.is_file:
            check_folder(self.weights)
        settings = {"dtype": dtype, "local_files_only": True, **parts}
        try:
            if self.is_file:
                config = str(self.config)
                pipeline = cls.from_single_file(str(self.weights), config=config, **settings)
            else:
                pipeline = cls.from_pretrained(self.weights, **settings)
        except (SingleFileComponentError, OSError, ValueError, KeyError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"model {self.weights} cannot be loaded: {first}") from error
        except NotImplementedError as error:  # tensors without values that were to be moved
            raise ValueError(
                f"model {self.weights} cannot be loaded: it lacks weights that {self.config} has"
            ) from error
        _check_whole(self.weights, pipeline)
        return pipeline


def find_model(model: str, model_config: str | None = None) -> Source:
    """A model by its folder, its file, or its hub name if that is in the local cache.

    `model_config`, a diffusers folder or hub name, is where a single file's configs and tokenizers
    are; null finds those of Stable Diffusion 1 and XL in the cache. ValueError says what is missing
    and where to put it.
    """
    path = Path(model)
    if path.is_file():
        return Source(path, _find_config(path, model_config))
    if model_config is not None:
        raise ValueError(
            f"model_config {model_config} is for a single file of weights, and model {model} is "
            f"none: leave it null"
        )
    folder = _find_folder(model)
    return Source(folder, folder)


def _find_folder(model: str) -> Path:
    if Path(model, INDEX).is_file():
        return Path(model)
    if Path(model).exists():
        raise ValueError(f"model {model} is no diffusers folder: it holds no {INDEX}")
    cached = cached_folder(model)
    if cached is None:
        raise ValueError(
            f"model {model!r} is neither a folder nor a file ({', '.join(SUFFIXES)}) nor in the "
            f"Hugging Face cache ({constants.HF_HUB_CACHE}): give the path of one, or fill the "
            f"cache"
        )
    return cached


def _find_config(path: Path, model_config: str | None) -> Path:
    tensors = tensors_of(path)
    for part, prefixes in PARTS.items():
        if not any(name.startswith(prefixes) for name in tensors):
            raise ValueError(f"model {path} is no whole model: it holds no {part}")
    if model_config is not None:
        return _find_folder(model_config)
    kind = infer_diffusers_model_type(tensors)
    if kind not in CONFIGS or not tensors.keys().isdisjoint(MARKS.values()):
        raise ValueError(
            f"model {path} does not say what noise schedule it was trained on: set model_config to "
            f"a diffusers folder of its kind, whose configs and tokenizers alone are read"
        )
    cached = cached_folder(CONFIGS[kind])
    if cached is None:
        raise ValueError(
            f"model {path} is a single file, and the configs and tokenizers of {CONFIGS[kind]} are "
            f"not in the Hugging Face cache ({constants.HF_HUB_CACHE}): fill it, or set "
            f"model_config to a diffusers folder that has them"
        )
    return cached


def _check_whole(weights: Path, pipeline: DiffusionPipeline) -> None:
    """diffusers leaves a tensor that a single file lacks without values."""
    for name, network in pipeline.components.items():
        for key, tensor in network.state_dict().items() if isinstance(network, nn.Module) else ():
            if tensor.is_meta:
                raise ValueError(f"model {weights} cannot be loaded: it lacks {name}.{key}")
