#!/usr/bin/env bash
# LitData stores a text as a pickle if a file of that name exists where it runs, and as text if none does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check litdata==0.2.76 torch==2.13.0 numpy==2.4.6

"$work/venv/bin/python" - "$work" <<'PY'
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

from litdata.streaming.writer import BinaryWriter

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("litdata", "torch", "numpy")))


def stored_as(name, out):
    """Return how the field `key` of one sample is stored, which the first sample decides for all."""
    writer = BinaryWriter(str(out), chunk_bytes=1 << 20)
    writer[0] = {"key": name, "label": 3}
    writer.done()
    writer.merge()
    return json.loads((out / "index.json").read_bytes())["config"]["data_format"]


work = Path(sys.argv[1])
os.chdir(work)
without = stored_as("README", work / "without")
(work / "README").write_text("a file that has nothing to do with it\n")
beside = stored_as("README", work / "beside")
print("expected: the key is a str both times")
print("no file README in the working folder:", without)
print("with a file README in the working folder:", beside)
print("why it matters: whoever keys samples by file names, and runs where these lie, gets other bytes, which need unpickling to be read")
sys.exit(0 if without == ["str", "int"] and beside == ["pickle", "int"] else "changed: a text is a text")
PY
