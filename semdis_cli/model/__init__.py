"""Pixels <-> latents: the published architecture, its samplers, its checkpoints. Knows no image files and no keys."""
