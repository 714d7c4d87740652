"""Pointers of Git LFS and git-annex in the place of weights, settings, shards and lists."""

from pathlib import Path

import pytest

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import CheckpointError, StoreError
from semdis_cli.events import Problem
from semdis_cli.files.links import or_pointer
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.settings import TokenizerSettings
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.verifying.verify import NO_DATA, VerifySettings, verify_latents
from tests.store import write_set
from tests.worlds import save_tiny_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s5--4d7a.png\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(("pointer", "command"), [(LFS, "git lfs pull"), (ANNEX, "git annex get")])
def test_a_model_that_was_not_fetched_says_how_to_get_it(
    tmp_path: Path, name: str, pointer: bytes, command: str
) -> None:
    model = save_tiny_model(tmp_path / "model")
    (model / name).write_bytes(pointer)
    with pytest.raises(CheckpointError, match=f"{name}: a .*pointer, not the file itself; get that with: {command}"):
        Tokenizer.load(str(model), TokenizerSettings())


def test_any_other_file_keeps_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"version 1")
    assert or_pointer(tmp_path / "file", "damaged") == "damaged"
    assert or_pointer(tmp_path / "nowhere", "missing") == "missing"
    assert or_pointer(tmp_path, "a folder") == "a folder"


def test_a_set_whose_shards_were_not_fetched_says_so_wherever_it_is_read(tmp_path: Path) -> None:
    manifest = write_set(tmp_path)
    [shard, *_] = sorted((tmp_path / "shards").iterdir())
    shard.write_bytes(LFS)
    source = open_latents(tmp_path)
    stored = next(one for one in source.shards if one.path == shard)
    events = verify_latents(tmp_path, VerifySettings(NO_DATA, 1))
    [problem] = [event for event in events if isinstance(event, Problem) and event.file.endswith(shard.name)]
    assert "a Git LFS pointer" in problem.what
    for read in (lambda: source.read(stored), lambda: open_latents(shard), lambda: list(LatentDataset(tmp_path))):
        with pytest.raises(StoreError, match=f"{shard.name}: a Git LFS pointer, not the file itself"):
            read()
    assert manifest.num_ok > 0


def test_a_manifest_that_was_not_fetched_says_so(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "manifest.json").write_bytes(LFS)
    with pytest.raises(StoreError, match=r"manifest\.json: a Git LFS pointer"):
        Manifest.read(tmp_path)
