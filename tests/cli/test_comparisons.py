"""`semdis eval --compare`: contenders of every kind on the same images, as a user has them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run
from tests.peers import save_tiny_peer
from tests.worlds import save_noise, save_tiny_model


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of two sizes."""
    for number, size in enumerate([(33, 70), (48, 48), (48, 48)]):
        save_noise(tmp_path / f"pictures/{number}.png", number, size)
    return tmp_path / "pictures"


def rows(folder: str = "eval") -> dict[str, Any]:
    lines = Path(folder, "figures.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["key"]: row for row in map(json.loads, lines)}


def test_all_kinds_stand_in_one_table_with_their_bits(run: Run, tiny: Path, pictures: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "coarse", 1, patch_size=32)
    texts = "steps=2,pdg", "store-dtype=int8", "crops=32,name=Tiles", "model=coarse", "jpeg", "webp=50"
    done = run("eval", pictures, "--model", tiny, *(word for text in texts for word in ("--compare", text)))
    assert done.code == 0, done.stderr
    for title in ("2 steps + PDG", "int8", "Tiles", "coarse", "JPEG", "WebP q50"):
        assert f"  {title} " in done.stdout
    found = rows()
    assert found.keys() == {"0.png", "1.png", "2.png"}
    bits = {title: one["bits_per_pixel"] for title, one in found["0.png"]["contenders"].items()}
    own = next(iter(bits.values()))
    assert own == pytest.approx(8 * 2 * 8 * 3 * 5 / (33 * 70), abs=1e-3)  # eight channels of bfloat16, 3x5 positions
    assert bits["2 steps + PDG"] == bits["Tiles"] == own
    assert bits["int8"] == pytest.approx(8 * (8 * 15 + 4 * 8) / (33 * 70), abs=1e-3)
    assert bits["coarse"] == pytest.approx(8 * 2 * 8 * 2 * 3 / (33 * 70), abs=1e-3)


def test_settings_of_contenders_are_on_record_and_another_comparison_is_measured_anew(
    run: Run, tiny: Path, pictures: Path
) -> None:
    assert run("eval", pictures, "--model", tiny, "-q", "--compare", "crops=16").code == 0
    report = json.loads(Path("eval/report.json").read_bytes())
    assert [one["settings"].get("crops_px") for one in report["contenders"]] == [None, 16]
    assert run("eval", pictures, "--model", tiny, "-q", "--compare", "crops=32").code == 0
    again = json.loads(Path("eval/report.json").read_bytes())
    assert again["contenders"][1]["settings"]["crops_px"] == 32
    assert again["images"]["this_run"] == 3
    assert report["contenders"][0]["figures"] == again["contenders"][0]["figures"]


def test_an_image_that_one_contender_cannot_keep_fails_by_itself(run: Run, tiny: Path, pictures: Path) -> None:
    save_noise(pictures / "long.png", 3, (16, 16_400))
    done = run("eval", pictures, "--model", tiny, "--compare", "webp", "--compare", "jpeg")
    assert done.code == 3
    found = rows()
    assert found["long.png"] == {"key": "long.png", "error": "WebP: webp files hold at most 16383 px a side"}
    assert all(len(found[key]["contenders"]) == 3 for key in ("0.png", "1.png", "2.png"))
    assert "WebP: webp files hold at most 16383 px a side" in done.stderr


@pytest.mark.filterwarnings("ignore")  # of another project
def test_a_peer_is_measured_from_a_folder(run: Run, tiny: Path, pictures: Path) -> None:
    save_tiny_peer("sd", Path("vae"))
    done = run("eval", pictures, "--model", tiny, "--compare", "sd=vae", "--compare", "sd=vae,crops=16")
    assert done.code == 0, done.stderr
    report = json.loads(Path("eval/report.json").read_bytes())
    first, whole, cropped = report["contenders"]
    assert whole["settings"]["model"]["class"] == "AutoencoderKL"
    assert np.isfinite(whole["figures"]["psnr_db"]["mean"])
    assert whole["figures"]["bits_per_pixel"]["mean"] == cropped["figures"]["bits_per_pixel"]["mean"]
    assert first["figures"]["bits_per_pixel"]["mean"] != whole["figures"]["bits_per_pixel"]["mean"]
