#!/usr/bin/env bash
# VaeImageProcessor.preprocess of diffusers maps uint8 arrays to [-1, 509], with no error and no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6 pillow==13.0.0

HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("diffusers", "torch", "numpy")))
pixels = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
processor = VaeImageProcessor(vae_scale_factor=8)
as_image, as_array = processor.preprocess(Image.fromarray(pixels)), processor.preprocess(pixels)
print("expected: [-1, 1] from both, or an error")
for name, values in (("PIL image", as_image), ("uint8 array", as_array)):
    print(f"{name}: from {float(values.min()):g} to {float(values.max()):g}")
print("why it matters: an encoder given this makes latents of nothing, and they are stored as if all were well")
raise SystemExit(0 if float(as_image.max()) <= 1 and float(as_array.max()) > 100 else "changed: in range, or refused")
PY
