#!/usr/bin/env bash
# An uncompressed TIFF with a plane of 16 bits for each colour is noise in Pillow, without an error; deflated, it is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import numpy as np
import PIL
import tifffile
from PIL import Image

y, x = np.mgrid[0:48, 0:64]
picture = np.stack([4 * x, 5 * y, 2 * (x + y)], axis=0).astype(np.uint16) * 257  # [3,H,W], as channels-first arrays are
expected = (picture >> 8).transpose(1, 2, 0)
errors = {}
for compression in (None, "deflate"):
    path = f"{sys.argv[1]}/{compression}.tif"
    tifffile.imwrite(path, picture, photometric="rgb", planarconfig="separate", compression=compression, metadata=None)
    assert np.array_equal(tifffile.imread(path), picture)
    with Image.open(path) as image:
        errors[compression] = int(np.abs(np.asarray(image.convert("RGB")).astype(int) - expected).max())
print("Expected: the high byte of each sample, however the file is packed.")
print(f"Happens (Pillow {PIL.__version__}, tifffile {tifffile.__version__}): levels off, at worst: "
      f"{errors[None]} uncompressed, {errors['deflate']} deflated.")
print("Why it matters: tifffile writes channels-first arrays like that; a training set gets noise, and nothing says so.")
sys.exit(0 if errors[None] > 50 and errors["deflate"] == 0 else 1)
PYTHON
