"""Checking a set of latents against its own records."""
