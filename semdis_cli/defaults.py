"""Defaults that the terminal shows before torch or Pillow are loaded, and that other rooms act on."""

BUNDLED_MODEL = "semdis-small"
# What marks a folder of images as our own output: it is no source.
DECODE_MARKER, ROUNDTRIP_MARKER, EVAL_MARKER = "decode.json", "roundtrip.json", "eval.json"
TRAIN_MARKER = "semdis-train.json"
PICTURES_MARKER = "latent-pictures.json"
GENERATOR_MARKER = "semdis-generator.json"
PAGE_MARKER = ".semdis-page"
