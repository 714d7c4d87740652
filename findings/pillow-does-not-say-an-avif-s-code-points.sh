#!/usr/bin/env bash
# Pillow does not pass on the code points by which an AVIF says its colours: Display P3 and PQ look like sRGB.
#
# Phones and HDR exports write them (a `colr` box of type nclx) instead of an ICC profile.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==12.0.0
venv/bin/python - <<'PYTHON'
import io
import struct
import sys

import PIL
from PIL import Image

file = io.BytesIO()
Image.new("RGB", (16, 16), (200, 100, 50)).save(file, "AVIF", quality=100, subsampling="4:4:4")
data = file.getvalue()
at = data.index(b"colrnclx") + 8
files = {
    "sRGB (1/13)": data,
    "Display P3 (12/13)": data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :],
    "BT.2020, PQ (9/16)": data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :],
}
seen = {}
print(f"Pillow {PIL.__version__}, one AVIF under three sets of code points")
print("expected: other pixels in sRGB, or something in `info` to convert them by (Chromium: (200, 100, 50), (215, 93, 31)")
print("          and, tone-mapped, (255, 0, 0))")
for name, avif in files.items():
    image = Image.open(io.BytesIO(avif))
    seen[name] = (image.convert("RGB").getpixel((8, 8)), sorted(image.info))
    print(f"happens: {name}: {seen[name][0]}, info: {', '.join(seen[name][1]) or 'nothing'}")
print("why it matters: no ICC profile is no sign of sRGB; whoever reads AVIF by Pillow has to read the box as well")
sys.exit(0 if len(set(map(str, seen.values()))) == 1 else 1)
PYTHON
