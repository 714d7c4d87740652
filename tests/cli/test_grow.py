"""`semdis encode` run again after its images have changed: new, changed, touched, removed and mended files."""

import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.settings import TokenizerSettings
from semdis_cli.store.index import read_rows
from semdis_cli.store.reader import open_latents
from tests.cli.conftest import Outcome, Run
from tests.store import contents
from tests.torture.harness import wait_until_settled
from tests.worlds import save_noise

LONG_AGO_S = time.time() - 3600
LONG_AGO_NS = int(LONG_AGO_S) * 10**9


def write_image(path: Path, seed: int, mtime_s: float = LONG_AGO_S) -> None:
    """An uncompressed image, so that any two have one size."""
    save_noise(path, seed)
    os.utime(path, (mtime_s, mtime_s))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(6):
        write_image(tmp_path / "photos" / f"{seed}.bmp", seed)
    return tmp_path / "photos"


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    """Encodes the photos, which has been done once."""

    def call(*options: str | Path, output: str = "latents") -> Outcome:
        return run("encode", photos, "-o", output, "--model", tiny, "--threads", "1", "--shard-images", "4", *options)

    assert call().code == 0
    return call


def report(root: Path) -> dict[str, Any]:
    fields = json.loads((root / "report.json").read_bytes())
    assert isinstance(fields, dict)
    return fields


def facts(root: Path) -> tuple[int, int, int, int]:
    """Images ok, encoded by the last run, found unchanged, and marked as removed."""
    fields = report(root)
    return fields["images"]["ok"], fields["images"]["this_run"], fields["unchanged"], fields["removed"]


def stored(root: Path) -> dict[str, bytes]:
    """What is served of every image."""
    source = open_latents(root)
    shards = [source.read(shard) for shard in source.shards]
    return {
        key: latents.float().numpy().tobytes()
        for shard in shards
        for key, latents in zip(shard.keys, shard.latents, strict=True)
    }


def test_new_changed_and_removed_images_end_up_as_in_a_set_made_anew(tmp_path: Path, photos: Path, encode: Run) -> None:
    write_image(photos / "new" / "7.bmp", 7)
    write_image(photos / "3.bmp", 33, LONG_AGO_S + 60)
    (photos / "1.bmp").unlink()
    planned = encode("--dry-run", "--json")
    assert json.loads(planned.stdout)["images"] == {"inputs": 6, "failed": 0, "unchanged": 4}
    done = encode()
    assert (done.code, facts(tmp_path / "latents")) == (0, (6, 2, 4, 1))
    assert encode(output="anew").code == 0
    assert stored(tmp_path / "latents") == stored(tmp_path / "anew")


def test_nothing_is_written_but_the_report_when_nothing_has_changed(tmp_path: Path, encode: Run) -> None:
    wait_until_settled(tmp_path / "photos")
    assert encode().code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*") if path.is_file()}
    assert encode().code == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*") if path.is_file()}
    report_file = tmp_path / "latents" / "report.json"
    assert {**before, report_file: 0} == {**after, report_file: 0}
    assert facts(tmp_path / "latents") == (6, 0, 6, 0)


def test_a_copy_of_the_images_is_recognised_by_content(tmp_path: Path, photos: Path, encode: Run) -> None:
    for path in photos.iterdir():
        os.utime(path)
    assert encode().code == 0
    assert facts(tmp_path / "latents") == (6, 0, 6, 0)


def replace_as_tools_do(photos: Path) -> None:
    """Other pictures of the same size and the same time of modification, put in place in six ways."""
    kept = {path.name: path.stat() for path in photos.iterdir()}
    aside = photos.parent / "aside"
    for number, name in enumerate(sorted(kept)):
        write_image(aside / name, 100 + number)
        os.utime(aside / name, ns=(0, kept[name].st_mtime_ns))
    (aside / "0.bmp").replace(photos / "0.bmp")  # mv
    shutil.copy2(aside / "1.bmp", photos / "1.bmp")  # cp -p
    (photos / "2.bmp").write_bytes((aside / "2.bmp").read_bytes())  # in place, then touch -r
    os.utime(photos / "2.bmp", ns=(0, kept["2.bmp"].st_mtime_ns))
    (photos / "3.bmp").unlink()
    os.link(aside / "3.bmp", photos / "3.bmp")
    for name in ("4.bmp", "5.bmp"):  # rsync -t, unpacking
        shutil.copy2(aside / name, photos / f".{name}")
        (photos / f".{name}").replace(photos / name)


@pytest.mark.parametrize("mtime_s", [0, 4_000_000_000, None])
def test_other_pictures_of_the_same_size_and_time_are_encoded(
    tmp_path: Path, photos: Path, encode: Run, run: Run, mtime_s: int | None
) -> None:
    for number, path in enumerate(sorted(photos.iterdir())):
        os.utime(path, ns=(0, LONG_AGO_NS + number if mtime_s is None else mtime_s * 10**9))
    assert encode().code == 0
    replace_as_tools_do(photos)
    assert "6 problems" in run("verify", "latents", "--against", photos).stderr
    assert encode().code == 0
    assert facts(tmp_path / "latents") == (6, 6, 0, 0)
    assert encode(output="anew").code == 0
    assert stored(tmp_path / "latents") == stored(tmp_path / "anew")


def test_a_tar_of_the_same_size_and_time_is_looked_into(tmp_path: Path, run: Run, tiny: Path) -> None:
    for seed in (0, 50):
        write_image(tmp_path / "one.bmp", seed)
        with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add(tmp_path / "one.bmp", "one.bmp")
        os.utime(tmp_path / "x.tar", (LONG_AGO_S, LONG_AGO_S))
        assert run("encode", "x.tar", "-o", "latents", "--model", tiny, "--threads", "1").code == 0
        assert facts(tmp_path / "latents")[1] == 1


def test_a_set_that_came_without_its_times_says_how_it_can_be_verified(
    tmp_path: Path, photos: Path, encode: Run
) -> None:
    (tmp_path / "latents" / "seen.jsonl").unlink()
    done = encode()
    assert "copied or downloaded" in done.stderr
    assert "semdis verify latents --data" in done.stderr
    assert "verify" not in encode().stderr
    shard = min((tmp_path / "latents" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    write_image(photos / "new.bmp", 77)
    done = encode()
    assert (done.code, "semdis verify latents says all" in done.stderr) == (4, True)
    (tmp_path / "latents" / "manifest.json").unlink()
    done = encode()
    assert (done.code, "semdis verify latents says what is there" in done.stderr) == (2, True)


def test_an_image_that_changes_at_once_after_its_encoding_is_not_missed(
    tmp_path: Path, photos: Path, encode: Run
) -> None:
    for seed in range(8, 12):  # as old as the clock allows to tell, then changed without another time
        write_image(photos / "8.bmp", seed, now := time.time())
        assert encode().code == 0
        write_image(photos / "8.bmp", seed + 100, now)
        assert encode().code == 0
        assert open_latents(tmp_path / "latents").keys.count("8.bmp") == 1
        assert encode(output=f"anew-{seed}").code == 0
        assert stored(tmp_path / "latents") == stored(tmp_path / f"anew-{seed}")


def test_a_bad_image_stays_in_the_list_until_it_is_mended(tmp_path: Path, photos: Path, encode: Run) -> None:
    (photos / "bad.bmp").write_bytes((photos / "0.bmp").read_bytes()[:500])
    os.utime(photos / "bad.bmp", (LONG_AGO_S, LONG_AGO_S))
    for _ in range(2):
        assert encode().code == 3
        errors = {row.key: row.error for row in read_rows(tmp_path / "latents" / "index.jsonl") if row.error}
        assert list(errors) == ["bad.bmp"]
    write_image(photos / "bad.bmp", 20)
    assert encode().code == 0
    assert facts(tmp_path / "latents") == (7, 1, 6, 0)


def test_other_images_altogether_are_refused_and_nothing_is_touched(tmp_path: Path, photos: Path, encode: Run) -> None:
    before = contents(tmp_path / "latents")
    shutil.rmtree(photos)
    write_image(photos / "other.bmp", 1)
    refused = encode()
    assert refused.code == 2
    assert (
        "holds latents of other images: none of its 6 is among the inputs that can be read; to add these, name its "
        "sources too, else give another -o" in refused.stderr
    )
    assert contents(tmp_path / "latents") == before


def test_other_settings_are_refused_by_a_dry_run_too(encode: Run) -> None:
    for options in ([], ["--dry-run"]):
        refused = encode("--size", "16", *options)
        assert refused.code == 2
        assert "begun with other settings (preprocessing.geometry.size: None -> 16)" in refused.stderr


@pytest.mark.parametrize(("kernels", "choice"), [("inductor", "on"), ("torch", "off"), ("onednn", "off")])
def test_a_set_that_grows_is_compiled_for_if_it_was_before(
    run: Run, photos: Path, tiny: Path, kernels: str, choice: str
) -> None:
    from semdis_cli.cli.setup import as_recorded

    auto, off = TokenizerSettings(), TokenizerSettings(compile="off")
    assert as_recorded(auto, Path("latents")) == auto
    assert run("encode", photos, "--model", tiny, "-q").code == 0
    manifest = Path("latents/manifest.json")
    fields = json.loads(manifest.read_bytes())
    fields["provenance"]["compute"]["kernels"] = kernels
    manifest.write_text(json.dumps(fields))
    assert as_recorded(auto, Path("latents")).compile == choice
    assert as_recorded(off, Path("latents")) == off
    assert as_recorded(auto, None) == auto
