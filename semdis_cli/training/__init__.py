"""Weights: in closed form, and by training."""
