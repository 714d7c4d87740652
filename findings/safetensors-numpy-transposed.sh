#!/usr/bin/env bash
# safetensors.numpy 0.8.0 writes a transposed array with its new shape, and the values in the order of the old one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 0.7.0 0.8.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check "safetensors==$version" numpy==2.4.6
done
cat > "$work/transposed.py" <<'PY'
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

array = np.arange(6, dtype=np.float32).reshape(2, 3)
found = load(save({"x": array.T}))["x"]
print("safetensors", version("safetensors"), "numpy", version("numpy"), "gives", found.tolist())
raise SystemExit(0 if np.array_equal(found, array.T) else 3)
PY
echo "expected of np.arange(6).reshape(2, 3).T, saved and loaded: [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]"
"$work/0.7.0/bin/python" "$work/transposed.py" || { echo "changed: 0.7.0 is wrong too"; exit 1; }
if "$work/0.8.0/bin/python" "$work/transposed.py"; then
  echo "changed: 0.8.0 is right"
  exit 1
fi
echo "why it matters: latents turned from [h,w,Z] to [Z,h,w] by a view are scrambled on disk, with no error; call np.ascontiguousarray"
