"""Stable Diffusion 1 and 2, and SD-Turbo: one text encoder, an epsilon or velocity UNet."""

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch import Tensor

from trainer.models.family import Conditioning, Family, TokenIds, WebUiNames
from trainer.models.ldm import is_open_clip


class StableDiffusion(Family):
    """Rombach et al. 2022, and what has its shape."""

    pipeline_classes = (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline)
    pipeline_settings = {"safety_checker": None, "requires_safety_checker": False}  # noqa: RUF012

    def encode_tokens(self, ids: TokenIds) -> Conditioning:
        (encoder,) = self.text_encoders.values()
        return Conditioning(encoder(ids[0]).last_hidden_state)

    def denoise(
        self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning, sizes: Tensor
    ) -> Tensor:
        answer: Tensor = self.denoiser(noised, timesteps, conditioning.context).sample
        return answer

    @property
    def web_ui_names(self) -> WebUiNames:
        second = is_open_clip(self.text_encoders["text_encoder"])
        encoder = "cond_stage_model.model." if second else "cond_stage_model.transformer."
        return WebUiNames(
            version="sd_v2" if second else "sd_v1",
            lora={"unet": "lora_unet_", "text_encoder": "lora_te_"},
            lora_unet_is_ldm=False,
            single_file={
                "unet": "model.diffusion_model.",
                "vae": "first_stage_model.",
                "text_encoder": encoder,
            },
        )
