"""The pixels that a real browser shows: image files laid over white in headless Chromium, many with one start."""

import base64
import html.parser
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A process of its own for each start, with colours and sizes that are those of the files.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--force-color-profile=srgb", "--force-device-scale-factor=1", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update"),
)
_START_S = 300
_FILES_AT_ONCE = 400
# Drawn to a canvas and read back: the same values as in a screenshot, without its rescaling and places.
_PAGE = """<!doctype html><meta charset="utf-8"><body>{images}<pre id="shown"></pre><script>
addEventListener("load", () => {{
  const shown = [...document.images].map(image => {{
    const height = image.naturalHeight, width = image.naturalWidth;
    if (!image.complete || !height) return null;
    const canvas = document.createElement("canvas");
    canvas.height = height; canvas.width = width;
    const context = canvas.getContext("2d", {{willReadFrequently: true}});
    context.fillStyle = "{background}";
    context.fillRect(0, 0, width, height);
    context.drawImage(image, 0, 0);
    const values = context.getImageData(0, 0, width, height).data;
    let text = "";
    for (let at = 0; at < values.length; at += 8192) text += String.fromCharCode(...values.subarray(at, at + 8192));
    return [height, width, btoa(text)];
  }});
  document.querySelectorAll("img").forEach(image => image.remove());
  document.getElementById("shown").textContent = JSON.stringify(shown);
}});
</script>"""


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome on this machine; None without one."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no Chromium or Chrome is installed")


def shown_by_browser(files: Mapping[str, bytes], background: str = "white") -> dict[str, np.ndarray | None]:
    """[H,W,3] uint8 sRGB of each file as Chromium shows it over `background`; None where it shows no image.

    The file's name is a key and no more: Chromium goes by the content.
    """
    shown: dict[str, np.ndarray | None] = {}
    names = list(files)
    for start in range(0, len(names), _FILES_AT_ONCE):
        some = names[start : start + _FILES_AT_ONCE]
        shown |= zip(some, _shown([files[name] for name in some], background), strict=True)
    return shown


def _shown(files: list[bytes], background: str) -> list[np.ndarray | None]:
    images = "".join(f'<img src="data:{_media_type(data)};base64,{base64.b64encode(data).decode()}">' for data in files)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(_PAGE.format(images=images, background=background), encoding="utf-8")
        found = json.loads(_text_of(_dumped(page, Path(folder))))
    return [None if one is None else _pixels(*one) for one in found]


def _dumped(page: Path, folder: Path) -> str:
    """The page as it is once its script has run."""
    chromium = find_chromium()
    assert chromium is not None
    flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}"]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    command = [chromium, *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=_START_S, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout.decode()


class _Found(html.parser.HTMLParser):
    """Collects the text of the page's result."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_inside = tag == "pre" and ("id", "shown") in attrs

    def handle_data(self, data: str) -> None:
        self.text += data if self._is_inside else ""

    def handle_endtag(self, tag: str) -> None:
        self._is_inside = self._is_inside and tag != "pre"


def _text_of(page: str) -> str:
    found = _Found()
    found.feed(page)
    assert found.text, "the page's script did not come to its end"
    return found.text


def _pixels(height: int, width: int, packed: str) -> np.ndarray:
    rgba = np.frombuffer(base64.b64decode(packed), np.uint8).reshape(height, width, 4)
    assert (rgba[:, :, 3] == 255).all()
    return rgba[:, :, :3]


def _media_type(data: bytes) -> str:
    """Some image type: Chromium tells formats apart by their content."""
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "image/jxl"
    return "image/avif" if data[4:8] == b"ftyp" else "image/png"
