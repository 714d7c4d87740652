#!/usr/bin/env bash
# One file name in Latin-1 makes a whole JSON Lines file unreadable for pyarrow, polars, DuckDB and orjson.
#
# One would expect: json.dumps writes pure ASCII by default, so any string survives, and any JSON parser reads it.
# What happens: Python holds an undecodable byte of a file name as a lone surrogate (PEP 383), json.dumps writes it as
# \udce9, and parsers that hold strings in UTF-8 refuse it: not that row, but the file. Python's own json reads it back.
# It matters because an index of latents or captions by file name is read by just these programs, and one name out of
# an old zip among millions is enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check orjson==3.13.0 pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json, os, sys
import duckdb, orjson, polars, pyarrow
import pyarrow.json

path = os.path.join(sys.argv[1], "index.jsonl")
names = [os.fsdecode(name) for name in (b"a.png", b"caf\xe9.png", b"z.png")]
with open(path, "w", encoding="ascii") as file:
    file.writelines(json.dumps({"key": name}) + "\n" for name in names)
assert [json.loads(line)["key"] for line in open(path)] == names

readers = {
    f"pyarrow {pyarrow.__version__}": lambda: pyarrow.json.read_json(path),
    f"polars {polars.__version__}": lambda: polars.read_ndjson(path),
    f"duckdb {duckdb.__version__}": lambda: duckdb.sql(f"SELECT key FROM read_json_auto('{path}')").fetchall(),
    f"orjson {orjson.__version__}": lambda: [orjson.loads(line) for line in open(path, "rb")],
}
refused = 0
for name, read in readers.items():
    try:
        read()
        print(f"{name}: reads it")
    except Exception as error:
        refused += 1
        print(f"{name}: {' '.join(str(error).split())[:100]}")
print("expected: three rows each")
sys.exit(0 if refused == len(readers) else 1)
PYTHON
