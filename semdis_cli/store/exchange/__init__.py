"""Latents in other layouts: exports, imports, pipes."""
