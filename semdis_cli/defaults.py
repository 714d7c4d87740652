"""Defaults that the terminal shows before torch or Pillow are loaded, and that other rooms act on."""

BUNDLED_MODEL = "semdis-small"
MAX_IMAGE_PIXELS = 178_956_970  # 0.5 GiB as RGB, which is also what Pillow refuses by itself
