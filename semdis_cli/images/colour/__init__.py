"""Colour: samples of any kind to 8-bit sRGB."""
