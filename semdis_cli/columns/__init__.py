"""Columns of images: captions, labels and whatever else comes with them, found where people keep it."""
