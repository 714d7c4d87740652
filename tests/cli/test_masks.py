"""`semdis encode --alpha mask` and `--masks`: from pictures to training, and what becomes of a mask that changes."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from torch.utils.data import DataLoader

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.parts import LATENTS, LATENTS_FLIP, MASK, MASK_FLIP
from semdis_cli.sources import files
from semdis_cli.sources.files import open_regular
from tests import forks
from tests.cli.conftest import Outcome, Run
from tests.cli.test_parts import LONG_AGO_S, rows
from tests.store import lasting
from tests.worlds import save_noise, save_tiny_model

NAMES = ("a.jpg", "b.png", "sub/c.jpg")  # the second is padded
SIZES = {"a.jpg": (32, 48), "b.png": (40, 24), "sub/c.jpg": (32, 48)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        save_noise(tmp_path / "photos" / name, seed, SIZES[name])
        age(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """A mask for each but the last."""
    for number, name in enumerate(("a.png", "b.tif")):
        save_mask(tmp_path / "masks" / name, number)
    return tmp_path / "masks"


def age(path: Path) -> None:
    os.utime(path, (LONG_AGO_S + len(path.name), LONG_AGO_S))


def save_mask(path: Path, seed: int) -> Path:
    [size] = [size for name, size in SIZES.items() if Path(name).stem == path.stem]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 2, size, dtype=np.uint8) * 255).save(path)
    age(path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "tiny")


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    def call(*options: str | Path, output: str = "latents", source: Path = photos) -> Outcome:
        return run("encode", source, "-o", output, "--model", tiny, "--threads", "1", "--shard-images", "1", *options)

    return call


def expected_mask(path: Path) -> torch.Tensor:
    """Averages over patches, padded with nothing."""
    values = np.asarray(Image.open(path)) / 255
    height, width = (-(-side // 16) * 16 for side in values.shape)
    padded = np.pad(values, ((0, height - values.shape[0]), (0, width - values.shape[1])))
    means = padded.reshape(height // 16, 16, width // 16, 16).mean((1, 3))
    return torch.from_numpy(means[None]).to(torch.float16)


def indexed(root: Path) -> dict[str, dict[str, object]]:
    return {row["key"]: row for row in map(json.loads, (root / "index.jsonl").read_text().splitlines())}


# --- what is stored ---


def test_alpha_becomes_a_mask_and_no_latent_changes(encode: Run, run: Run, photos: Path, tmp_path: Path) -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, :24] = 255
    picture = Image.open(photos / "a.jpg").convert("RGBA")
    picture.putalpha(Image.fromarray(alpha))
    picture.save(photos / "a.png")
    age(photos / "a.png")
    assert encode("--alpha", "mask", "--flip", "both").code == 0
    assert encode("--flip", "both", output="plain").code == 0
    assert encode("--flip", "both", "--alpha", "composite", output="same").code == 0
    assert lasting(tmp_path / "plain") == lasting(tmp_path / "same")
    with_masks, plain = rows(tmp_path / "latents"), rows(tmp_path / "plain")
    for key, tensors in with_masks.items():
        assert tensors.keys() == {LATENTS, LATENTS_FLIP, MASK, MASK_FLIP}
        assert all(torch.equal(tensors[name], tensor) for name, tensor in plain[key].items())
    half = torch.tensor([[[1, 0.5, 0], [1, 0.5, 0]]], dtype=torch.float16)
    assert torch.equal(with_masks["a.png"][MASK], half)
    assert torch.equal(with_masks["a.png"][MASK_FLIP], half.flip(-1))
    assert torch.equal(with_masks["a.jpg"][MASK], torch.ones(1, 2, 3, dtype=torch.float16))
    assert torch.equal(with_masks["b.png"][MASK][0, :, 1], torch.tensor([0.5, 0.5, 0.25], dtype=torch.float16))
    assert run("verify", "latents", "--against", "photos", "--data").code == 0
    shown = json.loads(run("inspect", "latents", "--json").stdout)
    assert (shown["provenance"]["mask"], "mask_files" in shown) == ("alpha", False)


def test_masks_of_files_are_found_by_key_and_missing_ones_told_once(
    encode: Run, run: Run, masks: Path, tmp_path: Path
) -> None:
    done = encode("--masks", masks)
    assert done.code == 0
    assert done.stderr.count(f"no mask in {masks} for 1 of 3 images: these count whole") == 1
    stored = rows(tmp_path / "latents")
    assert torch.equal(stored["a.jpg"][MASK], expected_mask(masks / "a.png"))
    assert torch.equal(stored["b.png"][MASK], expected_mask(masks / "b.tif"))
    assert torch.equal(stored["sub/c.jpg"][MASK], torch.ones(1, 2, 3, dtype=torch.float16))
    assert {key for key, row in indexed(tmp_path / "latents").items() if "mask_sha256" in row} == {"a.jpg", "b.png"}
    assert run("verify", "latents", "--against", "photos", "--data").code == 0
    shown = run("inspect", "latents")
    assert "files of 2 images" in shown.stdout
    assert json.loads(run("inspect", "latents", "--json").stdout)["mask_files"] == 2


def test_a_dry_run_tells_of_missing_masks_and_counts_their_bytes(encode: Run, masks: Path) -> None:
    done = encode("--masks", masks, "--dry-run", "--json")
    assert (done.code, "for 1 of 3 images" in done.stderr) == (0, True)
    plain = encode("--dry-run", "--json")
    more = json.loads(done.stdout)["latent_bytes"] - json.loads(plain.stdout)["latent_bytes"]
    assert more == 2 * (6 + 6 + 6)


def test_the_mask_of_the_whole_name_goes_before_that_of_the_stem(encode: Run, photos: Path, tmp_path: Path) -> None:
    save_noise(photos / "a.png", 5, SIZES["a.jpg"])
    for number, name in enumerate(("a.jpg", "a.png.png", "b.png")):
        save_mask(tmp_path / "masks" / name.replace("a.png.png", "a.png"), number)
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a.png.png")
    Image.open(tmp_path / "masks" / "a.jpg").convert("L").point(lambda value: 255 * (value > 127)).save(
        tmp_path / "masks" / "a.bmp"
    )
    (tmp_path / "masks" / "a.jpg").unlink()
    (tmp_path / "masks" / "a.bmp").rename(tmp_path / "masks" / "a.jpg")  # known by content
    assert encode("--masks", tmp_path / "masks").code == 0
    stored = rows(tmp_path / "latents")
    assert torch.equal(stored["a.jpg"][MASK], expected_mask(tmp_path / "masks" / "a.jpg"))
    assert torch.equal(stored["a.png"][MASK], expected_mask(tmp_path / "masks" / "a.png.png"))
    assert not torch.equal(stored["a.jpg"][MASK], stored["a.png"][MASK])


def test_images_in_tars_have_masks_under_their_keys(encode: Run, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        archive.add(photos, ".")
    save_mask(tmp_path / "masks" / "some" / "sub" / "c.png", 3)
    done = encode("--masks", tmp_path / "masks", source=tmp_path / "some.tar")
    assert done.code == 0, done.stderr
    stored = rows(tmp_path / "latents")
    assert torch.equal(stored["some/sub/c.jpg"][MASK], expected_mask(tmp_path / "masks" / "some" / "sub" / "c.png"))


def test_every_view_of_a_file_has_its_mask_in_its_own_geometry(encode: Run, masks: Path, tmp_path: Path) -> None:
    assert encode("--masks", masks, "--size", "16,32", "--crops", "2").code == 0
    stored, index = rows(tmp_path / "latents"), indexed(tmp_path / "latents")
    assert len(stored) == len(index) == 12
    assert stored["a#16crop1.jpg"][MASK].shape == (1, 1, 1)
    assert stored["a#32crop1.jpg"][MASK].shape == (1, 2, 2)
    assert not torch.equal(stored["a#32crop1.jpg"][MASK], stored["a#32crop2.jpg"][MASK])
    assert "mask_sha256" in index["a#16crop2.jpg"]


# --- what goes wrong ---


def test_a_bad_mask_costs_its_image_alone(encode: Run, masks: Path, tmp_path: Path) -> None:
    (masks / "a.png").write_bytes((masks / "a.png").read_bytes()[:60])
    done = encode("--masks", masks)
    assert done.code == 3
    assert "failed: a.jpg: its mask a.png: " in done.stderr
    assert rows(tmp_path / "latents").keys() == {"b.png", "sub/c.jpg"}
    assert encode("--masks", masks).code == 3
    save_mask(masks / "a.png", 7)
    assert encode("--masks", masks).code == 0
    assert torch.equal(rows(tmp_path / "latents")["a.jpg"][MASK], expected_mask(masks / "a.png"))


def test_a_mask_that_leads_nowhere_is_no_missing_one(encode: Run, masks: Path, tmp_path: Path) -> None:
    (masks / "sub").mkdir()
    (masks / "sub" / "c.png").symlink_to("gone.png")
    done = encode("--masks", masks)
    assert (done.code, "no mask in" in done.stderr) == (3, False)
    assert "failed: sub/c.jpg: its mask sub/c.png cannot be read (No such file or directory)" in done.stderr
    assert rows(tmp_path / "latents").keys() == {"a.jpg", "b.png"}
    (masks / "sub" / "c.png").unlink()
    save_mask(masks / "sub" / "c.png", 3)
    assert encode("--masks", masks).code == 0


@pytest.mark.usefixtures("masks")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--masks", "masks", "--alpha", "mask"], "mask does not go with --masks"),
        (["--masks", "masks", "--dedupe"], "does not go with --masks"),
        (["--masks", "nowhere"], "names a folder of masks; nowhere is none"),
        (["--masks", "other"], "other: holds no mask of any image"),
        (["--masks", "photos"], "photos: lies in"),
        (["--masks", "photos/sub"], "photos/sub: lies in"),
        (["--masks", "twice"], "twice: holds several masks of 'a.jpg', a.png and a.tif: keep one"),
        (["--alpha", "premultiplied"], "premultiplied"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_any_work(
    encode: Run, tmp_path: Path, options: list[str], why: str
) -> None:
    save_noise(tmp_path / "other" / "elsewhere.png")
    save_mask(tmp_path / "twice" / "a.png", 1)
    save_mask(tmp_path / "twice" / "a.tif", 1)
    done = encode(*options)
    assert done.code == 2
    assert " ".join(why.split()) in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "latents").exists()


@pytest.mark.usefixtures("masks")
@pytest.mark.parametrize("then", [["--alpha", "mask"], ["--masks", "masks"], []], ids=["alpha", "files", "none"])
def test_sets_with_masks_of_other_kinds_do_not_mix(encode: Run, tmp_path: Path, then: list[str]) -> None:
    assert encode(*then).code == 0
    before = lasting(tmp_path / "latents")
    for now in (["--alpha", "mask"], ["--masks", "masks"], []):
        done = encode(*now)
        assert done.code == (0 if now == then else 2)
        assert now == then or "mask: " in done.stderr
    assert lasting(tmp_path / "latents") == before


# --- again ---


def test_a_mask_that_changes_comes_or_goes_has_its_image_encoded_again(
    encode: Run, run: Run, masks: Path, tmp_path: Path
) -> None:
    assert encode("--masks", masks).code == 0
    assert report(tmp_path)["unchanged"] == 0
    save_mask(masks / "a.png", 9)
    assert encode("--masks", masks).code == 0
    assert (report(tmp_path)["unchanged"], report(tmp_path)["changed"]) == (2, 1)
    assert torch.equal(rows(tmp_path / "latents")["a.jpg"][MASK], expected_mask(masks / "a.png"))
    save_mask(masks / "sub" / "c.png", 3)
    (masks / "b.tif").unlink()
    assert encode("--masks", masks).code == 0
    assert (report(tmp_path)["unchanged"], report(tmp_path)["changed"]) == (1, 2)
    stored = rows(tmp_path / "latents")
    assert torch.equal(stored["sub/c.jpg"][MASK], expected_mask(masks / "sub" / "c.png"))
    assert float(stored["b.png"][MASK][0, 0, 0]) == 1
    assert run("verify", "latents", "--against", "photos", "--data").code == 0


def report(folder: Path) -> dict[str, int]:
    value: dict[str, int] = json.loads((folder / "latents" / "report.json").read_text())
    return value


def test_masks_that_were_only_touched_copied_or_moved_encode_nothing(encode: Run, masks: Path, tmp_path: Path) -> None:
    assert encode("--masks", masks).code == 0
    before = lasting(tmp_path / "latents")
    (masks / "a.png").touch()
    assert encode("--masks", masks).code == 0
    shutil.copytree(masks, tmp_path / "copied")
    assert encode("--masks", tmp_path / "copied").code == 0
    assert lasting(tmp_path / "latents") == before


def test_another_folder_of_masks_encodes_those_that_differ(encode: Run, masks: Path, tmp_path: Path) -> None:
    others = shutil.copytree(masks, tmp_path / "others")
    save_mask(others / "b.tif", 8)
    assert encode("--masks", masks).code == 0
    assert encode("--masks", others).code == 0
    assert (report(tmp_path)["unchanged"], report(tmp_path)["changed"]) == (2, 1)
    assert torch.equal(rows(tmp_path / "latents")["b.png"][MASK], expected_mask(others / "b.tif"))


@pytest.mark.parametrize("kind", ["folder", *(pytest.param(one, marks=pytest.mark.slow) for one in ("tar", "zip"))])
def test_masks_whose_times_tell_are_not_read_again(
    encode: Run, photos: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = photos if kind == "folder" else Path(shutil.make_archive(str(tmp_path / "some"), kind, photos))
    if kind != "folder":
        (tmp_path / "by key").mkdir()
        masks = masks.rename(tmp_path / "by key" / "some").parent
    mask = next(masks.rglob("a.png"))
    time.sleep(2.1)  # by then a change would show in the times
    assert encode("--masks", masks, source=source).code == 0
    read: set[str] = set()

    def noting(path: Path | str) -> int:
        read.add(Path(path).name)
        return open_regular(path)

    monkeypatch.setattr(files, "open_regular", noting)
    assert encode("--masks", masks, source=source).code == 0
    assert report(tmp_path)["unchanged"] == 3
    assert not read & {"a.png", "b.png", "b.tif"}
    save_mask(mask, 9)
    assert encode("--masks", masks, source=source).code == 0
    assert report(tmp_path)["changed"] == 1
    assert read & {"a.png", "b.png", "b.tif"} == {"a.png"}


def test_a_stopped_run_ends_with_the_bytes_of_an_unbroken_one(encode: Run, masks: Path, tmp_path: Path) -> None:
    assert encode("--masks", masks, output="whole").code == 0
    stop_at_b(encode, masks, tmp_path)
    assert encode("--masks", masks).code == 0
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "whole")


def test_a_stopped_run_goes_on_with_the_masks_of_now(encode: Run, masks: Path, tmp_path: Path) -> None:
    stop_at_b(encode, masks, tmp_path)
    save_mask(masks / "a.png", 6)
    assert encode("--masks", masks).code == 0
    stored = rows(tmp_path / "latents")
    assert torch.equal(stored["a.jpg"][MASK], expected_mask(masks / "a.png"))
    assert torch.equal(stored["b.png"][MASK], expected_mask(masks / "b.tif"))


def stop_at_b(encode: Run, masks: Path, tmp_path: Path) -> None:
    """Leave a run unfinished at an image whose mask is bad, and mend that."""
    good = (masks / "b.tif").read_bytes()
    (masks / "b.tif").write_bytes(b"no picture")
    assert encode("--masks", masks, "--max-errors", "0", "--workers", "1").code == 3
    assert (tmp_path / "latents" / "journal").is_dir()
    (masks / "b.tif").write_bytes(good)


def test_attached_columns_leave_masks_alone(encode: Run, run: Run, masks: Path, tmp_path: Path) -> None:
    assert encode("--masks", masks).code == 0
    (tmp_path / "table.csv").write_text("key,caption\na.jpg,a photograph\n")
    assert run("attach", "latents", "table.csv").code == 3  # two have no row
    before = indexed(tmp_path / "latents")
    assert "mask_sha256" in before["a.jpg"]
    assert encode("--masks", masks).code == 0
    assert indexed(tmp_path / "latents") == before


# --- beyond the set ---


def test_training_gets_masks_mirrored_as_the_latents_are(encode: Run, masks: Path, tmp_path: Path) -> None:
    assert encode("--masks", masks, "--flip", "both").code == 0
    stored = rows(tmp_path / "latents")
    dataset, twins = (LatentDataset(tmp_path / "latents", flip=flip) for flip in (False, True))
    for item, twin in zip(dataset, twins, strict=True):
        assert item.mask.dtype == torch.float32
        assert torch.equal(item.mask, stored[item.key][MASK].float())
        assert torch.equal(twin.mask, stored[item.key][MASK_FLIP].float())
    same_size = [number for number in range(3) if dataset.key(number) != "b.png"]
    [batch] = DataLoader(torch.utils.data.Subset(dataset, same_size), batch_size=2)
    assert batch.mask.shape == (2, 1, 2, 3)
    assert (batch.latents.float() * batch.mask).shape == batch.latents.shape


def test_a_set_without_masks_gives_none_that_would_pass_for_one(encode: Run, tmp_path: Path) -> None:
    assert encode().code == 0
    dataset = LatentDataset(tmp_path / "latents")
    item = dataset[0]
    assert item.mask.shape == (0, 2, 3)
    with pytest.raises(RuntimeError, match="size"):
        item.latents * item.mask


def test_masks_leave_with_exports_that_have_a_place_for_them(
    encode: Run, run: Run, masks: Path, tmp_path: Path
) -> None:
    assert encode("--masks", masks).code == 0
    stored = rows(tmp_path / "latents")
    assert run("export", "latents", "-o", "kohya", "--format", "kohya").code == 0
    with np.load(tmp_path / "kohya" / "a_0048x0032_semdis.npz", allow_pickle=False) as arrays:  # noqa: TID251 # as trainers do
        assert sorted(arrays) == ["alpha_mask_2x3", "crop_ltrb_2x3", "latents_2x3", "original_size_2x3"]
        assert arrays["alpha_mask_2x3"].dtype == np.float32
        assert np.array_equal(arrays["alpha_mask_2x3"], stored["a.jpg"][MASK][0].float().numpy())
    assert run("export", "latents", "-o", "wds").code == 0
    assert run("import", "wds", "-o", "imported").code == 0
    assert run("verify", "imported", "--data").code == 0
    for key, tensors in rows(tmp_path / "imported").items():
        assert torch.equal(tensors[MASK], stored[key][MASK])
    assert "mask_files" not in json.loads(run("inspect", "imported", "--json").stdout)
    assert "done before" in run("import", "wds", "-o", "imported").stderr


def test_kohya_is_told_of_caches_that_it_does_not_look_for(encode: Run, run: Run, masks: Path, tmp_path: Path) -> None:
    assert encode("--masks", masks, "--size", "16,32", "--crops", "2").code == 0
    done = run("export", "latents", "-o", "kohya", "--format", "kohya")
    assert "semdis: caches of several images of a file are called by their marks (a#256), and" in done.stderr
    assert (tmp_path / "kohya" / "a#16crop1_0048x0032_semdis.npz").is_file()
    assert encode("--masks", masks, "--size", "32", output="one").code == 0
    assert "caches of several" not in run("export", "one", "-o", "more", "--format", "kohya").stderr


def test_an_import_keeps_no_mask_of_an_image_that_has_none_any_more(
    encode: Run, run: Run, masks: Path, tmp_path: Path
) -> None:
    assert encode("--masks", masks).code == 0
    (masks / "a.png").unlink()
    for command in (["export", "latents", "-o", "wds"], ["import", "wds", "-o", "imported"]):
        assert run(*command).code == 0
    for output in ("latents", "imported"):
        assert encode("--masks", masks, output=output).code == 0
    whole, imported = rows(tmp_path / "latents")["a.jpg"], rows(tmp_path / "imported")["a.jpg"]
    assert torch.equal(imported[MASK], whole[MASK])


@pytest.mark.usefixtures("photos", "masks")
def test_masks_come_through_a_pipe(tmp_path: Path, tiny: Path) -> None:
    done = subprocess.run(
        [*forks.semdis("encode", "photos", "-o", "-", "--model", tiny, "--masks", "masks")],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert b"for 1 of 3 images" in done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        masks = {name: load(file.read())[MASK] for name, file in members.items() if file is not None}
    assert len(masks) == 3
    [of_a] = (mask for name, mask in masks.items() if name.startswith("a"))
    assert torch.equal(of_a[0], expected_mask(tmp_path / "masks" / "a.png"))


def test_equal_masks_give_equal_sets(encode: Run, masks: Path, tmp_path: Path) -> None:
    assert encode("--masks", masks).code == 0
    assert encode("--masks", masks, "--workers", "1", output="again").code == 0
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "again")
