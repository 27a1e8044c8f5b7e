"""Imported, once, by the process that tests/integration/forkserver.py starts.

No network is made here: that would start threads.
"""

import contextlib
import gc

import deepspeed
import deepspeed.runtime.zero.muon.muon_optimizer
from diffusers import StableDiffusionPipeline  # noqa: F401
from transformers import CLIPTextModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import tests.integration.forked_agent  # noqa: F401
import trainer.train  # noqa: F401

with contextlib.suppress(ImportError):  # what peft imports when it makes its first adapter
    import peft.tuners.lora.bnb  # noqa: F401

# Tables and probes that are made at their first use, and take a second.
assert deepspeed.ops.__compatible_ops__
get_checkpoint_conversion_mapping(CLIPTextModel.config_class.model_type)
gc.freeze()  # nor does a rank look through all that again for garbage
