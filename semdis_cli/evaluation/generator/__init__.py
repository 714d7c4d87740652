"""Downstream convergence: a small diffusion transformer learns sets of latents, one curve each."""
