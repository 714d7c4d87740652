#!/usr/bin/env bash
# pillow-jxl-plugin gives the last frame of an animated JPEG XL, and says that the file has one frame.
#
# Of an animated image of any other format Pillow gives the first.
set -euo pipefail
command -v cjxl > /dev/null || { echo "needs cjxl (Debian: libjxl-tools)" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==12.0.0 pillow-jxl-plugin==1.3.8
venv/bin/python - <<'PYTHON'
from PIL import Image

frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
frames[0].save("animated.png", save_all=True, append_images=frames[1:], duration=100)
PYTHON
cjxl animated.png animated.jxl -d 0 2> /dev/null
venv/bin/python - <<'PYTHON'
import importlib.metadata
import sys

import pillow_jxl  # registers the format
from PIL import Image

image = Image.open("animated.jxl")
colour = image.convert("RGB").getpixel((32, 32))
print(f"pillow-jxl-plugin {importlib.metadata.version('pillow-jxl-plugin')}, three frames: red, green, blue")
print("expected: red, the first, as of GIF, PNG, WebP and AVIF; or an error")
print(f"happens: {colour}, of {image.n_frames} frame")
print("why it matters: a data set of first frames becomes one of last ones where the files are JPEG XL")
sys.exit(0 if colour == (0, 0, 255) and image.n_frames == 1 else 1)
PYTHON
