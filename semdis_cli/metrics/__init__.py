"""Figures of quality: of pairs of images, and of sets of them."""
