"""Stable Diffusion XL: two text encoders, and a UNet that is told how the picture was framed."""

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from trainer.models.family import Conditioning, Family, TokenIds, WebUiNames


class StableDiffusionXL(Family):
    """Podell et al. 2023, its base model; the refiner is another pipeline."""

    pipeline_classes = (StableDiffusionXLPipeline,)
    pipeline_settings = {"add_watermarker": False}  # noqa: RUF012

    def encode_tokens(self, ids: TokenIds) -> Conditioning:
        encoders = self.text_encoders.values()
        answers = [
            encoder(tokens, output_hidden_states=True)
            for encoder, tokens in zip(encoders, ids, strict=True)
        ]
        # The last layer but one of both, and the projection of the second.
        context = torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1)
        pooled = answers[-1].text_embeds
        if self.rest["force_zeros_for_empty_prompt"]:  # as diffusers samples without a caption
            told = ids[0][:, 1] != self.tokenizers[0].eos_token_id
            context, pooled = context * told[:, None, None], pooled * told[:, None]
        return Conditioning(context, pooled)

    def denoise(
        self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning, sizes: Tensor
    ) -> Tensor:
        told = {"text_embeds": conditioning.pooled, "time_ids": sizes}
        answer: Tensor = self.denoiser(
            noised, timesteps, conditioning.context, added_cond_kwargs=told
        ).sample
        return answer

    @property
    def web_ui_names(self) -> WebUiNames:
        return WebUiNames(
            version="sdxl_base_v1-0",
            lora={
                "unet": "lora_unet_",
                "text_encoder": "lora_te1_",
                "text_encoder_2": "lora_te2_",
            },
            lora_unet_is_ldm=True,
            single_file={
                "unet": "model.diffusion_model.",
                "vae": "first_stage_model.",
                "text_encoder": "conditioner.embedders.0.transformer.",
                "text_encoder_2": "conditioner.embedders.1.model.",
            },
        )
