"""Evaluation: what latents and reconstructions are worth, as figures and pictures."""
