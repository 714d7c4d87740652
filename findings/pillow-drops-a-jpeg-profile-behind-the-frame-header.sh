#!/usr/bin/env bash
# Pillow drops the ICC profile of a JPEG, without a warning, if it stands behind the frame header.
#
# It may stand anywhere before the scan (ITU-T T.81, B.2.1). Pillow puts profiles together when it meets the frame header.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==12.0.0
venv/bin/python - <<'PYTHON'
import io
import sys

import PIL
from PIL import Image, ImageCms

profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
file = io.BytesIO()
Image.new("RGB", (16, 16), "red").save(file, "JPEG", icc_profile=profile)
data = file.getvalue()

segments, at = [], 2
while not segments or segments[-1][1] != 0xDA:  # up to the scan header
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    segments.append(data[at:end])
    at = end
moved = [s for s in segments if s[1] == 0xE2]  # APP2: the profile
others = [s for s in segments if s[1] != 0xE2]
behind = data[:2] + b"".join(others[:-1] + moved + others[-1:]) + data[at:]

found = {
    name: Image.open(io.BytesIO(jpeg)).info.get("icc_profile") == profile
    for name, jpeg in (("before the frame header", data), ("behind it", behind))
}
print(f"Pillow {PIL.__version__}, a JPEG of one ICC profile")
print("expected: the profile is found wherever it stands; browsers and libjpeg's jpeg_read_icc_profile find it")
for name, is_found in found.items():
    print(f"happens: {name}: {'found' if is_found else 'not found, and no warning'}")
print("why it matters: training sets hold such files; their colours are taken for sRGB")
sys.exit(0 if found == {"before the frame header": True, "behind it": False} else 1)
PYTHON
