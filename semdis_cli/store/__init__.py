"""Latents to disk and back."""
