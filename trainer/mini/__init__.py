"""The mini model: Stable Diffusion's shape at a size that two CPU cores can train."""
