#!/usr/bin/env bash
# EXIF orientation in a WebP, or as a LONG in a JPEG: libraries turn the picture, Chromium shows it as it is stored.
set -euo pipefail
browser=$(command -v chromium || command -v google-chrome) || { echo "needs Chromium" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$folder/venv/bin/python" - "$folder" "$browser" <<'PYTHON'
import base64, io, os, re, struct, subprocess, sys
import PIL
from PIL import Image, ImageOps

folder, browser = sys.argv[1:]

def exif(kind):
    value = struct.pack(">HH", 6, 0) if kind == 3 else struct.pack(">I", 6)
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI", 0x0112, kind, 1) + value + bytes(4)

def saved(form, kind):
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 40, 40)).save(file, form, exif=exif(kind))
    return file.getvalue()

files = {"JPEG, SHORT": saved("JPEG", 3), "JPEG, LONG": saved("JPEG", 4), "WebP, SHORT": saved("WEBP", 3)}
tags = "".join(f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">' for data in files.values())
script = "onload=()=>{document.title='sizes '+[...document.images].map(i=>i.naturalWidth+'x'+i.naturalHeight).join(' ')}"
with open(f"{folder}/page.html", "w") as page:
    page.write(f"<!doctype html><title></title>{tags}<script>{script}</script>")
flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--dump-dom"]
done = subprocess.run([browser, *flags, f"file://{folder}/page.html"], capture_output=True, text=True, check=True,
                      env={**os.environ, "HOME": folder})
shown = re.search("sizes ([0-9x ]+)", done.stdout)[1].split()
turned = []
for (name, data), size in zip(files.items(), shown):
    pillow = "%dx%d" % ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size
    turned.append((pillow == "48x64", size == "48x64"))
    print(f"{name}: stored 64x48, orientation 6; Pillow {PIL.__version__} {pillow}, Chromium {size}")
print("Expected: one answer. Why it matters: a file that looks upright to whoever made it lies on its side in training,")
print("or the other way round, by the reader; converters copy the EXIF block of a JPEG into a WebP that they have turned.")
sys.exit(0 if turned == [(True, True), (True, False), (True, False)] else 1)
PYTHON
"$browser" --version 2>/dev/null
