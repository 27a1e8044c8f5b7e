"""Does every latent of the answer show the character that it should? (TextDiffuser, Chen et al.
2023): cross-entropy of a frozen segmenter, in latent space, so that nothing is decoded."""

import torch.nn.functional as F

from trainer.data.characters import UNKNOWN
from trainer.data.loader import Batch
from trainer.models.family import Family
from trainer.models.segmenter import latent_labels, load_segmenter
from trainer.objectives.config import CharacterLossConfig
from trainer.objectives.term import Denoised, Said, Term


class CharacterLoss(Term):
    """CE(S(x_0), C): S tells which of 96 labels each latent has, C is the truth at their size.

    The mean over all latents of a picture, paper included; 0 for one of which no label is known.
    """

    def __init__(self, family: Family, config: CharacterLossConfig) -> None:
        super().__init__(family, config)
        channels = int(family.vae.config.latent_channels)
        segmenter = load_segmenter(config.segmenter, channels)
        self.segmenter = segmenter.to(family.device)

    def __call__(self, denoised: Denoised, batch: Batch) -> Said:
        assert batch.characters is not None, "a recipe with this term asks for them"
        clean = denoised.clean
        labels = latent_labels(batch.characters.to(clean.device), clean.shape[2:])
        logits = self.segmenter(clean)
        errors = F.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="none")
        untold = (batch.characters == UNKNOWN).flatten(1).all(dim=1)  # on the CPU: no wait
        return Said(errors.mean(dim=(1, 2)), {"untold": int(untold.sum())})
