"""Which of DeepSpeed's own settings a recipe may give. Imports neither torch nor DeepSpeed.

DeepSpeed takes an unknown key at its top level without a word, and "auto" too, which is not its own
but the Transformers integration's: a misspelt setting would train a whole run without effect.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

# None: a single value. Of the sections that our own keys fill, what is left over.
SETTINGS: dict[str, frozenset[str] | None] = {
    "zero_optimization": frozenset(
        {
            "allgather_bucket_size",
            "allgather_partitions",
            "allgather_sequential",
            "contiguous_gradients",
            "ignore_unused_parameters",
            "memory_efficient_linear",
            "overlap_comm",
            "reduce_bucket_size",
            "reduce_scatter",
            "round_robin_gradients",
            "stage3_max_live_parameters",
            "stage3_max_reuse_distance",
            "stage3_module_granularity_threshold",
            "stage3_param_persistence_threshold",
            "stage3_prefetch_bucket_size",
            "sub_group_size",
            "use_all_reduce_for_fetch_params",
            "use_multi_rank_bucket_allreduce",
            "zero_hpz_partition_size",
            "zero_quantized_gradients",
            "zero_quantized_nontrainable_weights",
            "zero_quantized_weights",
        }
    ),
    "bf16": frozenset({"check_grad_overflow", "immediate_grad_update"}),
    "data_types": frozenset({"grad_accum_dtype"}),
    "comms_logger": frozenset({"enabled", "verbose", "prof_all", "debug", "prof_ops"}),
    "flops_profiler": frozenset(
        {"enabled", "profile_step", "module_depth", "top_modules", "detailed", "output_file"}
    ),
    "communication_data_type": None,
    "gradient_predivide_factor": None,
    "memory_breakdown": None,
    "prescale_gradients": None,
    "wall_clock_breakdown": None,
}

# What a recipe says elsewhere, once.
OURS = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.micro_batch",
    "gradient_clipping": "train.optim.clip_norm",
    "optimizer": "train.optim",
    "scheduler": "train.optim",
    "steps_per_print": "train.log_every",
    "fp16": "train.precision",
    "zero_optimization.stage": "train.zero.stage",
    "zero_optimization.offload_optimizer": "train.zero.offload_optimizer",
    "zero_optimization.offload_param": "train.zero.offload_weights",
    "bf16.enabled": "train.precision",
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """ValueError, in one line, at the first key that is not DeepSpeed's, not free, or "auto"."""
    for key, value in settings.items():
        allowed = _check_key(key, SETTINGS, "")
        if allowed is None:
            _check_value(key, value)
            continue
        if not isinstance(value, Mapping):
            raise ValueError(f"deepspeed.{key} takes keys of its own, got {value!r}")
        for name, setting in value.items():
            _check_key(name, dict.fromkeys(allowed), f"{key}.")
            _check_value(f"{key}.{name}", setting)


def _check_key(
    key: str, allowed: Mapping[str, frozenset[str] | None], section: str
) -> frozenset[str] | None:
    if section + key in OURS:
        raise ValueError(f"deepspeed.{section}{key} is set by {OURS[section + key]}")
    if key not in allowed:
        close = get_close_matches(key, allowed, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(allowed))}"
        raise ValueError(f"deepspeed.{section}{key} is not a setting that can be given: {hint}")
    return allowed[key]


def _check_value(key: str, value: Any) -> None:
    if value == "auto":
        raise ValueError(
            f'deepspeed.{key} is "auto", which DeepSpeed itself does not know: give a value, or '
            "leave it out"
        )
    if not isinstance(value, bool | int | float | str | list | None):
        raise ValueError(f"deepspeed.{key} takes one value, got {value!r}")
