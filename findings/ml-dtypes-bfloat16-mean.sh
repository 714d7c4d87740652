#!/usr/bin/env bash
# NumPy sums an array of ml_dtypes' bfloat16 in bfloat16: the mean of 100,000 ones is 0.0026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import ml_dtypes
import numpy as np

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("numpy", "ml_dtypes")))
print("expected: 1.0 for each, as NumPy's own float16 gives it")
means = {name: float(np.ones(100_000, dtype).mean()) for name, dtype in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16))}
for name, mean in means.items():
    print(f"mean of 100,000 ones in {name}: {mean:.6f}")
print("of the same ones with dtype=np.float32:", float(np.ones(100_000, ml_dtypes.bfloat16).mean(dtype=np.float32)))
print("why it matters: statistics of latents that are stored in bfloat16 are off by orders of magnitude, with no warning")
raise SystemExit(0 if means["float16"] == 1 and means["bfloat16"] < 0.5 else "changed: the mean is right")
PY
