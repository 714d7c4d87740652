"""Write `docs/images.md` anew."""

from pathlib import Path

from tests.odd_images.table import build_table

(Path(__file__).parents[2] / "docs" / "images.md").write_text(build_table(), encoding="utf-8")
