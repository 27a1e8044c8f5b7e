"""Imported, once, by the process that tests/integration/forkserver.py starts.

No network is made here: that would start threads.
"""

import contextlib

from diffusers import StableDiffusionPipeline  # noqa: F401
from transformers import CLIPTextModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import tests.integration.forked_agent  # noqa: F401
import trainer.train  # noqa: F401
from trainer.distributed import import_deepspeed

deepspeed = import_deepspeed("cpu")
with contextlib.suppress(ImportError):  # what peft imports when it makes its first adapter
    import peft.tuners.lora.bnb  # noqa: F401

# Tables and probes that are made at their first use, and take a second.
assert deepspeed.ops.__compatible_ops__
get_checkpoint_conversion_mapping(CLIPTextModel.config_class.model_type)
