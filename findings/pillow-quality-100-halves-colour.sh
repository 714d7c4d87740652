#!/usr/bin/env bash
# Pillow halves the resolution of colour in a JPEG or AVIF even at quality 100: coloured lines come back 110 levels off.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
import io

import numpy as np
from PIL import Image, __version__

print("versions: pillow", __version__, "and numpy", np.__version__)
page = np.full((256, 256, 3), 255, np.uint8)
page[::4] = 200, 30, 30  # red and blue lines of one pixel, as in a chart or a map
page[:, ::4] = 30, 30, 200
print("expected: the best that the format can do at quality=100, and errors of a few levels")
found = {}
for kind, options in (("JPEG", {}), ("JPEG", {"subsampling": "4:4:4"}), ("AVIF", {}), ("AVIF", {"subsampling": "4:4:4"})):
    file = io.BytesIO()
    Image.fromarray(page).save(file, kind, quality=100, **options)
    difference = np.asarray(Image.open(file).convert("RGB")).astype(float) - page
    psnr = 10 * np.log10(255**2 / np.square(difference).mean())
    found[kind, bool(options)] = psnr
    print(f"{kind}, quality=100{', 4:4:4' if options else ''}: {psnr:.1f} dB, up to {abs(difference).max():.0f} levels off, {file.tell()} bytes")
print("why it matters: a codec's curve drawn with Pillow ends far below what the codec can do, so whatever is compared with it looks better")
halved = all(psnr > 50 if full else psnr < 20 for (_, full), psnr in found.items())
raise SystemExit(0 if halved else "changed: quality 100 keeps colours, or 4:4:4 does not")
PY
