"""Contenders: ways for an image to be kept and to come back, which are measured on the same pixels."""
