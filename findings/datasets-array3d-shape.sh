#!/usr/bin/env bash
# An Array3D column of Hugging Face datasets takes an array of another shape with as many values, and reshapes it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 numpy==2.4.6

HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from datasets import Array3D, Dataset, Features

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("datasets", "pyarrow", "numpy")))
wide = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
tall = np.ascontiguousarray(wide.transpose(0, 2, 1))  # [1,4,2]: the same picture, standing
features = Features({"latents": Array3D((1, 2, 4), "float32")})
print("expected: an error for the second row, which is [1,4,2] and not [1,2,4]")
try:
    rows = Dataset.from_dict({"latents": [wide, tall]}, features=features).with_format("numpy")
    found = rows[1]["latents"]
except Exception as error:
    raise SystemExit(f"changed: refused ({error!r:.100})")
print("given:", tall.tolist())
print("found:", np.asarray(found).tolist(), "of shape", np.asarray(found).shape)
print("why it matters: latents of a portrait among landscapes come back as scrambled landscapes, with no error")
raise SystemExit(0 if np.asarray(found).shape == (1, 2, 4) else "changed: another shape")
PY
