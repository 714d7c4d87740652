"""What the commands promise beyond the main flow: options, refusals, streams and exit codes."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from semdis_cli import FCDMDiffAE
from semdis_cli.cli.app import app
from semdis_cli.model import devices
from semdis_cli.store.index import read_rows
from tests import forks
from tests.cli.conftest import PHOTOS, Run, semdis
from tests.cli.test_messages import parts_of
from tests.worlds import save_tiny_model, tiny_config

LAKE, COLOSSEUM = PHOTOS / "lake-sherburne.jpg", PHOTOS / "roman-colosseum.jpg"
VERBS = [command.callback.__name__.rstrip("_") for command in app.registered_commands if command.callback]


def shards(latents: Path) -> list[Path]:
    return sorted((latents / "shards").iterdir())


def metadata(shard: Path) -> dict[str, object]:
    with safe_open(shard, framework="np") as file:
        record: dict[str, object] = json.loads(file.metadata()["semdis"])
    return record


def small_photo(path: Path, size: tuple[int, int] = (48, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(LAKE) as image:
        image.resize(size).save(path)
    return path


# ---- Help and start-up ----


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_command_ends_with_an_example_and_states_defaults(run: Run, verb: str) -> None:
    done = run(verb, "--help")
    assert done.code == 0
    assert re.search(rf"Example: .*semdis {verb} ", " ".join(done.stdout.split()))
    assert "[default: " in done.stdout


def test_help_answers_about_as_fast_as_its_libraries_can_be_imported() -> None:
    def least_work_s(*command: str) -> float:
        """CPU time, which does not grow when other processes want the cores."""
        times = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    libraries_s = least_work_s("-c", "import typer.rich_utils, rich.progress, rich.table, json")
    assert least_work_s("-m", "semdis_cli", "--help") < 2.5 * libraries_s


# ---- Streams ----


def test_json_is_one_object_on_stdout_and_quiet_leaves_stderr_empty(run: Run, tiny: Path) -> None:
    done = run("encode", COLOSSEUM, "--model", tiny, "--json", "--quiet")
    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert report["command"] == "encode"
    assert report["images"] == {"ok": 1, "failed": 0, "this_run": 1}
    assert set(report["stages"]) == {"read_s", "encode_s", "decode_s", "write_s", "wait_s", "publish_s"}
    publish_s = report["stages"]["publish_s"]
    assert sum(report["stages"].values()) - publish_s == pytest.approx(
        report["threads"] * report["elapsed_s"], abs=0.05
    )
    decoded = run("decode", "--json", "--quiet")
    assert json.loads(decoded.stdout)["images"]["ok"] == 1
    measured = run("roundtrip", COLOSSEUM, "--model", tiny, "--json", "-q")
    assert json.loads(measured.stdout)["psnr_db"]["mean"] > 0


def test_without_json_encode_leaves_stdout_empty_and_sums_up_on_stderr(run: Run, tiny: Path) -> None:
    done = run("encode", COLOSSEUM, "--model", tiny)
    assert done.stdout == ""
    model, device, summary, where_time_went = done.stderr.splitlines()
    assert f"model {tiny} (sha256 " in model
    assert re.fullmatch(r"semdis: running in (bfloat16|float32) on cpu \((onednn|torch) kernels\)", device)
    assert re.search(r"1 image in 1 shard, .* 0 failed; .* images/s, .* megapixels/s", summary)
    assert "encode " in where_time_went


def test_a_terminal_gets_a_progress_bar_while_results_go_to_the_pipe(tmp_path: Path, tiny: Path) -> None:
    pty = pytest.importorskip("pty")
    screen, terminal = pty.openpty()
    command = forks.semdis("roundtrip", PHOTOS, "--model", tiny)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        shown = b"".join(parts_of(screen))
        assert process.stdout is not None
        results = process.stdout.read()
    os.close(screen)
    assert process.returncode == 0
    assert re.search(rb"\d/7 images", shown)
    assert b"images/s" in shown
    assert re.fullmatch(rb"([\w/-]+\.jpg\t[\d.]+\n){7}mean\t[\d.]+\n", results)


# ---- Sources ----


def test_a_list_on_stdin_ended_by_nul_names_the_images(tmp_path: Path, tiny: Path) -> None:
    for name in (b"12:30.png", b"a\nb.png", b"back\\slash.png", b"caf\xe9.png"):
        path = Path(os.fsdecode(name))
        small_photo(tmp_path / "in" / "x.png").rename(tmp_path / "in" / path)
    names = b"\0".join(sorted(b"in/" + os.fsencode(path.name) for path in (tmp_path / "in").iterdir())) + b"\0"
    done = semdis("encode", "--files-from", "-", "-0", "--model", tiny, cwd=tmp_path, stdin=names)
    assert done.code == 0, done.stderr
    assert [os.fsencode(row.key) for row in read_rows(tmp_path / "latents" / "index.jsonl")] == names.split(b"\0")[:-1]
    decoded = semdis("roundtrip", "in", "--model", tiny, cwd=tmp_path)
    assert decoded.code == 0, decoded.stderr
    assert "a\\nb.png\t" in decoded.stdout
    assert "caf\udce9.png\t" in decoded.stdout  # the very bytes of the name


def test_a_listed_file_that_is_missing_is_a_failure_and_not_the_end(run: Run, tiny: Path, tmp_path: Path) -> None:
    small_photo(tmp_path / "a.png")
    (tmp_path / "list").write_text("a.png\nmissing.png\n")
    done = run("encode", "--files-from", "list", "--model", tiny)
    assert done.code == 3
    rows = {row.key: row.is_ok for row in read_rows(tmp_path / "latents" / "index.jsonl")}
    assert rows == {"a.png": True, "missing.png": False}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encode"], "name at least one SOURCE"),
        (["encode", "nowhere"], "no such file or folder"),
        (["encode", "here", "-0"], "goes with --files-from"),
        (["encode", "here", "--files-from", "nowhere"], "the list cannot be read"),
        (["encode", "here", "--size", "100"], "must be a multiple"),
        (["encode", "here", "--size", "64", "--max-pixels", "99"], "give only one of"),
        (["encode", "here", "--background", "red"], "is no colour"),
        (["encode", "here", "-o", "."], "holds the source"),
        (["encode", "here", "-o", "occupied"], "holds other files"),
        (["encode", "here", "--device", "cuda:99"], "not available"),
        (["encode", "nowhere", "--device", "cuda:99", "--compile", "off"], "--device cuda:99: not available"),
        (["roundtrip", "nowhere", "--device", "mps:7"], "--device mps:7: not available"),
        (["decode", "nowhere", "--device", "abacus"], "--device abacus: must be auto, or one of cpu, cuda, mps, xpu"),
        (["train", "nowhere", "-o", "trained", "--init", "nobody/there", "--device", "abacus"], "--device abacus"),
        (["encode", "empty"], "no images found"),
        (["roundtrip", "here", "-o", "occupied"], "not empty"),
        (["init", "here", "-o", "occupied"], "not an empty folder"),
        (["init", "here"], "too few"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused_before_working(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.setenv("SEMDIS_MODEL", str(tiny))
    small_photo(tmp_path / "here" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    done = run(*arguments)
    assert done.code == 2
    assert says in " ".join(done.stderr.replace("│", "").split())
    assert sorted(tmp_path.rglob("*")) == before


# ---- Geometry and records ----


@pytest.mark.parametrize(
    ("options", "grid", "decoded"),
    [
        ([], "32x22", (500, 341)),
        (["--size", "64"], "4x4", (64, 64)),
        (["--max-pixels", "20000"], "11x8", None),
        (["--bucket-size", "128"], "10x6", None),
    ],
)
def test_each_way_to_size_images_gives_its_grid_and_decodes_to_its_size(
    run: Run, tiny: Path, tmp_path: Path, options: list[str], grid: str, decoded: tuple[int, int] | None
) -> None:
    assert run("encode", COLOSSEUM, "--model", tiny, *options).code == 0
    [shard] = shards(tmp_path / "latents")
    assert shard.name == f"00000000-{grid}.safetensors" or decoded is None
    [row] = read_rows(tmp_path / "latents" / "index.jsonl")
    assert row.record is not None
    assert run("decode").code == 0
    with Image.open(tmp_path / "decoded" / "roman-colosseum.png") as image:
        assert (image.height, image.width) == (decoded or row.record.geometry.image)


def test_transparent_pixels_show_the_background_asked_for(run: Run, tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (255, 255, 255, 0)).save(tmp_path / "glass.png")
    assert run("roundtrip", "glass.png", "--background", "#204060").code == 0
    with Image.open(tmp_path / "roundtrip" / "glass.png") as image:
        assert np.abs(np.asarray(image, int) - (0x20, 0x40, 0x60)).max() <= 3


def test_every_setting_that_decides_a_byte_is_in_every_shard(run: Run, tiny: Path, tmp_path: Path) -> None:
    options = [
        "--posterior",
        "sample",
        "--seed",
        "7",
        "--store-dtype",
        "float16",
        "--dtype",
        "float32",
        "--threads",
        "1",
    ]
    assert run("encode", COLOSSEUM, LAKE, "--model", tiny, "--size", "64", *options).code == 0
    [shard] = shards(tmp_path / "latents")
    record = metadata(shard)
    provenance = record["provenance"]
    assert isinstance(provenance, dict)
    assert record["keys"] == ["lake-sherburne.jpg", "roman-colosseum.jpg"]
    assert provenance["posterior"] == {"kind": "sample", "seed": 7, "noise": "philox"}
    assert provenance["dtype"] == "float16"
    assert provenance["whitened"] is True
    assert provenance["compute"] == provenance["compute"] | {"dtype": "float32", "num_threads": 1, "device": "cpu"}
    assert provenance["preprocessing"]["geometry"]["size"] == 64
    assert re.fullmatch(r"[0-9a-f]{64}", provenance["model"]["weights_sha256"])
    assert json.loads((tmp_path / "latents" / "manifest.json").read_bytes())["provenance"] == provenance


def test_a_dry_run_predicts_the_latents_to_the_byte_and_writes_nothing(run: Run, tiny: Path, tmp_path: Path) -> None:
    done = run("encode", PHOTOS, "--model", tiny, "--dry-run", "--json")
    assert done.code == 0
    assert not (tmp_path / "latents").exists()
    plan = json.loads(done.stdout)
    assert plan["images"] == {"inputs": 7, "failed": 0, "unchanged": 0}
    assert plan["estimated_s"] >= 0
    assert run("encode", PHOTOS, "--model", tiny).code == 0
    payload = 0
    for shard in shards(tmp_path / "latents"):
        with safe_open(shard, framework="pt") as file:
            payload += file.get_tensor("latents").nbytes
    assert payload == plan["latent_bytes"]
    assert len(shards(tmp_path / "latents")) == plan["shards"]


def test_latents_that_are_not_finite_are_a_failure_of_their_image(run: Run, tmp_path: Path, tiny: Path) -> None:
    model = FCDMDiffAE.from_pretrained(tiny)
    model.encoder.to_bottleneck.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path / "overflowing")
    done = run("encode", COLOSSEUM, "--model", "overflowing", "--dtype", "float32")
    assert done.code == 3
    [row] = read_rows(tmp_path / "latents" / "index.jsonl")
    assert "not finite" in (row.error or "")
    assert shards(tmp_path / "latents") == []
    assert run("decode").code == 0


# ---- Models ----


def test_a_model_without_statistics_says_that_latents_are_raw(run: Run, tmp_path: Path, tiny: Path) -> None:
    model = FCDMDiffAE.from_pretrained(tiny)
    model.has_latent_stats = False
    model.save_pretrained(tmp_path / "raw")
    done = run("encode", COLOSSEUM, "--model", "raw")
    assert "latents are raw" in done.stderr
    assert json.loads((tmp_path / "latents" / "manifest.json").read_bytes())["provenance"]["whitened"] is False
    assert run("decode").code == 0


def test_the_environment_names_the_model_and_the_option_overrules_it(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMDIS_MODEL", "nowhere-to-be-found")
    assert run("encode", COLOSSEUM).code == 4
    assert run("encode", COLOSSEUM, "--model", tiny).code == 0
    monkeypatch.setenv("SEMDIS_MODEL", str(tiny))
    assert f"model {tiny}" in run("encode", COLOSSEUM, "-o", "two").stderr


def test_decode_takes_the_recorded_model_and_refuses_another(run: Run, tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "mine")
    save_tiny_model(tmp_path / "other", seed=1)
    assert run("encode", COLOSSEUM, "--model", "mine").code == 0
    refused = run("decode", "--model", "other")
    assert refused.code == 4
    assert "made by mine" in refused.stderr
    assert not (tmp_path / "decoded").exists()
    (tmp_path / "mine").rename(tmp_path / "moved")
    lost = run("decode")
    assert lost.code == 4
    assert "give --model if it is elsewhere" in lost.stderr
    assert run("decode", "--model", "moved").code == 0


# ---- Decode ----


def test_two_keys_that_would_share_a_name_keep_their_suffixes(run: Run, tmp_path: Path, tiny: Path) -> None:
    for name in ("a.png", "a.webp", "b.png"):
        small_photo(tmp_path / "in" / name)
    assert run("encode", "in", "--model", tiny).code == 0
    assert run("decode", "--format", "jpg").code == 0
    images = {path.name for path in (tmp_path / "decoded").glob("*.jpg")}
    assert images == {"a.png.jpg", "a.webp.jpg", "b.jpg"}


def test_an_image_and_a_folder_that_would_share_a_name_both_come_back(run: Run, tmp_path: Path, tiny: Path) -> None:
    for name in ("a.jpg", "a.png/b.jpg"):
        small_photo(tmp_path / "in" / name)
    assert run("encode", "in", "--model", tiny).code == 0
    assert run("decode").code == 0
    images = {path.relative_to(tmp_path / "decoded").as_posix() for path in (tmp_path / "decoded").rglob("*.png")}
    assert images == {"a.jpg.png", "a.png", "a.png/b.png"}


def test_decode_finishes_what_is_missing_and_refuses_other_settings(run: Run, tmp_path: Path, tiny: Path) -> None:
    for name in ("a.png", "b.png"):
        small_photo(tmp_path / "in" / name)
    assert run("encode", "in", "--model", tiny).code == 0
    assert run("decode").code == 0
    image = tmp_path / "decoded" / "a.png"
    whole = image.read_bytes()
    image.unlink()
    again = run("decode")
    assert again.code == 0
    assert "1 of 2 images done before" in again.stderr
    assert image.read_bytes() == whole
    other = run("decode", "--steps", "2")
    assert other.code == 2
    assert "num_steps: 1 -> 2" in other.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert run("decode", "-o", "mine").code == 2


def test_an_image_decodes_alike_alone_and_beside_others(run: Run, tmp_path: Path, tiny: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        small_photo(tmp_path / "in" / name)
    how = ("--model", tiny, "--steps", "2", "--pdg", "--seed", "3")
    assert run("roundtrip", "in", *how, "-o", "all").code == 0
    assert run("roundtrip", "in/b.png", *how, "-o", "alone").code == 0
    assert (tmp_path / "all" / "b.png").read_bytes() == (tmp_path / "alone" / "b.png").read_bytes()
    assert run("roundtrip", "in/b.png", *how[:-1], "4", "-o", "other-seed").code == 0
    assert (tmp_path / "all" / "b.png").read_bytes() != (tmp_path / "other-seed" / "b.png").read_bytes()


def test_a_damaged_shard_is_refused_and_the_others_are_decoded(run: Run, tmp_path: Path, tiny: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        small_photo(tmp_path / "in" / name)
    assert run("encode", "in", "--model", tiny, "--shard-images", "1").code == 0
    damaged, missing, _ = shards(tmp_path / "latents")
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    missing.unlink()
    done = run("decode")
    assert done.code == 4
    assert f"{damaged.name}: its bytes do not match" in done.stderr
    assert f"{missing.name}: cannot be read" in done.stderr
    assert [path.name for path in (tmp_path / "decoded").glob("*.png")] == ["c.png"]


def test_decode_leaves_what_a_key_or_a_link_leads_to_outside_alone(run: Run, tmp_path: Path, tiny: Path) -> None:
    small_photo(tmp_path / "in" / "sub" / "a.png")
    assert run("encode", "in", "--model", tiny).code == 0
    (tmp_path / "outside").mkdir()
    assert run("decode").code == 0
    shutil.rmtree(tmp_path / "decoded" / "sub")
    (tmp_path / "decoded" / "sub").symlink_to(tmp_path / "outside")
    done = run("decode")
    assert done.code == 2
    assert "leads out of" in done.stderr
    assert list((tmp_path / "outside").iterdir()) == []


def test_images_of_latents_that_were_made_again_are_not_taken_for_done(run: Run, tmp_path: Path, tiny: Path) -> None:
    def remake(colour: str) -> None:  # two pictures of one name and one number of bytes
        Image.new("RGB", (64, 64), colour).save(tmp_path / "a.bmp")
        shutil.rmtree(tmp_path / "latents", ignore_errors=True)
        assert run("encode", "a.bmp", "--model", tiny).code == 0

    remake("red")
    assert run("decode").code == 0
    remake("blue")
    done = run("decode")
    assert done.code == 2
    assert "the latents have changed since, or are others" in done.stderr


def test_decode_goes_on_in_the_same_dtype_only(run: Run, tiny: Path) -> None:
    assert run("encode", COLOSSEUM, "--model", tiny).code == 0
    assert run("decode", "--dtype", "bfloat16").code == 0
    done = run("decode", "--dtype", "float32")
    assert done.code == 2
    assert "compute.dtype: bfloat16 -> float32" in done.stderr


def test_a_name_too_long_to_give_back_costs_its_image_alone(run: Run, tmp_path: Path, tiny: Path) -> None:
    longest = "x" * 251 + ".png"
    for name in (longest, "a.png"):
        small_photo(tmp_path / "in" / name)
    assert run("encode", "in", "--model", tiny).code == 0
    for arguments in (["decode", "--format", "webp"], ["roundtrip", "in", "--model", tiny, "--format", "webp"]):
        done = run(*arguments)
        assert done.code == 3
        assert "longer than 255 bytes" in done.stderr
        assert len(list((tmp_path / ("decoded" if arguments[0] == "decode" else "roundtrip")).glob("*.webp"))) == 1
    assert run("decode", "-o", "as-png").code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
def test_a_gpu_that_is_not_used_is_spoken_of_in_one_line(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_NVIDIA_SIGNS", ("dev/null",))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said = "semdis: there is an NVIDIA GPU, but --device auto takes the CPU: CUDA 13.0"
    done = run("encode", COLOSSEUM, "--model", tiny)
    assert done.code == 0
    assert sum(line.startswith(said) for line in done.stderr.splitlines()) == 1
    assert said not in run("decode", "--device", "cpu").stderr
    assert run("decode", "-o", "again", "--quiet").stderr == ""


# The command in an address space of so much more than importing has taken: with CUDA's libraries that alone is 3 GiB.
WITH_LITTLE_ROOM = """
import resource, sys
import semdis_cli.model.tokenizer, semdis_cli.pipeline.encode
from semdis_cli.cli import main

with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
limit = taken + int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_image_too_large_for_the_memory_costs_itself_alone(tmp_path: Path) -> None:
    small_photo(tmp_path / "in" / "a.png")
    Image.new("L", (13000, 13000), 99).save(tmp_path / "in" / "huge.png")
    command = [*forks.python(), "-c", WITH_LITTLE_ROOM, str(2400 << 20), "encode", "in", "--threads", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 3, done.stderr
    rows = {row.key: row.error or "" for row in read_rows(tmp_path / "latents" / "index.jsonl")}
    assert rows["a.png"] == ""
    assert "not enough memory" in rows["huge.png"]


def test_what_a_record_says_neither_steers_the_terminal_nor_fetches_anything(
    run: Run, tmp_path: Path, tiny: Path
) -> None:
    assert run("encode", COLOSSEUM, "--model", tiny).code == 0
    manifest = tmp_path / "latents" / "manifest.json"
    fields = json.loads(manifest.read_bytes())
    fields["provenance"]["model"] |= {"name": "\x1b]0;owned\x07\x1b[31m\nmodel", "source": "hub"}
    manifest.write_text(json.dumps(fields))
    done = run("decode")
    assert done.code == 4
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr
    fields["provenance"]["model"] |= {"name": "some/folder", "source": "folder"}
    manifest.write_text(json.dumps(fields))
    assert "some/folder: no such model" in run("decode").stderr


def test_our_own_output_below_the_source_is_no_input(run: Run, tmp_path: Path, tiny: Path) -> None:
    small_photo(tmp_path / "a.png")
    assert run("encode", ".", "--model", tiny).code == 0
    assert run("decode").code == 0
    assert run("roundtrip", ".", "--model", tiny).code == 0
    again = run("encode", ".", "--model", tiny)
    assert again.code == 0, again.stderr
    assert "1 of 1 image done before" in again.stderr


def test_a_pipe_in_the_place_of_latents_is_refused(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run("decode", "pipe")
    assert done.code == 4
    assert "not a regular file" in done.stderr


# ---- Roundtrip ----


def test_roundtrip_prints_its_mean_even_when_quiet_and_refuses_other_inputs(
    run: Run, tmp_path: Path, tiny: Path
) -> None:
    small_photo(tmp_path / "a.png")
    done = run("roundtrip", "a.png", "--model", tiny, "--quiet")
    assert re.fullmatch(r"a.png\t[\d.]+\nmean\t[\d.]+\n", done.stdout)
    assert done.stderr == ""
    small_photo(tmp_path / "b.png")
    assert "roundtrip: made from other images" in run("roundtrip", "b.png", "--model", tiny).stderr


def test_a_reader_that_has_seen_enough_ends_the_run_quietly(tmp_path: Path, tiny: Path) -> None:
    for number in range(30):
        small_photo(tmp_path / "in" / f"{number}.png")
    command = f"{shlex.join(forks.semdis())} roundtrip in --model {tiny} --quiet | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 141
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


# ---- A model of one's own ----


def test_init_makes_a_model_that_encodes(run: Run, tmp_path: Path) -> None:
    tiny_config(model_dim=64, bottleneck_dim=32).save(tmp_path / "config.json")
    made = run("init", PHOTOS, "-o", "mine", "--config", "config.json")
    assert made.code == 0, made.stderr
    done = run("roundtrip", COLOSSEUM, "--model", "mine", "--json")
    assert json.loads(done.stdout)["psnr_db"]["mean"] > 24  # 26 measured: 32 components of PCA
