"""Training a segmenter of latents, for the character-aware loss on an autoencoder of one's own."""
