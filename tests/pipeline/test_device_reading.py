"""JPEGs that a device decodes, by a decoder in place of nvJPEG that is a level off: what becomes of them and of others.

Nothing here says what nvJPEG's own pixels are.
"""

import gc
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.events import Event, Failure, ImageMeasured, RunFinished
from semdis_cli.images.formats.jpeg import on_device
from semdis_cli.images.formats.jpeg.on_device import DeviceJpegs, device_jpegs
from semdis_cli.images.loader import Loader
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.option import OptionError
from semdis_cli.pipeline import device_reading
from semdis_cli.pipeline.device_reading import DeviceReading
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.reading import DecodedOn, LoadedCall, ThreadReading, beside, decoding_report
from semdis_cli.pipeline.roundtrip import roundtrip
from semdis_cli.pipeline.workers import Workers
from semdis_cli.records import LoadedImage, PlannedImage, UndecodedImage
from semdis_cli.settings import (
    CropSettings,
    EncodeSettings,
    GeometrySettings,
    LoadSettings,
    PartSettings,
    ReadSettings,
    RoundtripSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.sources.views import in_views
from semdis_cli.store.quantised import real_values
from semdis_cli.store.reader import open_latents
from tests.accelerated import Accelerated
from tests.store import lasting

pytestmark = pytest.mark.usefixtures("decoder")

CPU = torch.device("cpu")
FIND_OPERATOR = on_device._find_operator
ON_DEVICE = LoadSettings(GeometrySettings(size=64), ReadSettings(decode_on="cuda"))
ON_CPU = LoadSettings(GeometrySettings(size=64))
NAME = "nvjpeg of cuda"
REFUSED, NO_MEMORY = 4, 5  # nvJPEG's words, at the end of those of its operator
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


def a_level_off(data: bytes) -> Tensor:
    pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return torch.from_numpy(np.minimum(pixels, 254) + np.uint8(1)).permute(2, 0, 1).contiguous()


class Decoder:
    """Stands for the operator: `decode` has the files of a call, or raises what it would of them."""

    def __init__(self, decode: Callable[[bytes], Tensor] = a_level_off) -> None:
        self.decode = decode
        self.calls: list[int] = []

    def __call__(self, files: Sequence[Tensor], mode: int, device: torch.device) -> list[Tensor]:
        assert (mode, device) == (3, CPU)
        assert all(file.dtype == torch.uint8 and file.ndim == 1 and file.is_contiguous() for file in files)
        self.calls.append(len(files))
        return [self.decode(file.numpy().tobytes()) for file in files]


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    decoder = Decoder()
    device_jpegs.cache_clear()
    monkeypatch.setattr(on_device, "_find_operator", lambda: decoder)
    yield decoder
    device_jpegs.cache_clear()


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Accelerated.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=4, num_threads=1))


def save(path: Path, seed: int, size: tuple[int, int], **options: Any) -> None:
    """Save a smooth picture of `size` (H, W) with some texture, as photographs are."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    rng = np.random.default_rng(seed)
    smooth = np.stack([2 * x + 5 * seed, 3 * y, x + y], axis=2) % 200
    pixels = (smooth + rng.integers(0, 20, (*size, 3))).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(path, **options)


def oriented(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif.tobytes()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs for a device (of two sizes, progressive, on their sides), and others: grey, a profile, a PNG, damage."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(9):
        save(folder / f"plain{number}.jpg", number, (90, 120) if number % 2 else (64, 64))
    save(folder / "progressive.jpg", 10, (70, 80), progressive=True)
    for number in (6, 8):
        save(folder / f"turned{number}.jpg", number, (70, 100), exif=oriented(number))
    save(folder / "grey.jpg", 11, (70, 80), mode="L")
    save(folder / "profile.jpg", 12, (70, 80), icc_profile=b"no profile")
    save(folder / "other.png", 13, (70, 80))
    save(folder / "cut.jpg", 14, (90, 120), quality=95)
    cut = folder / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-900])
    (folder / "text.jpg").write_text("no picture")
    return folder


BY_DEVICE, BY_CPU, FAILED = 12, 3, ["cut.jpg", "text.jpg"]


def run(
    photos: Path, load: LoadSettings, tokenizer: Tokenizer, output: Path, *, mix_versions: bool = False, **parts: Any
) -> list[Event]:
    shards = ShardSettings(shard_images=6, mix_versions=mix_versions)
    settings = EncodeSettings(num_workers=2, shards=shards, latents=PartSettings(**parts))
    with Loader(load, tokenizer.patch_size, 2) as loader:
        return list(encode(find_images([photos]), loader, tokenizer, settings, output))


def report_of(events: Sequence[Event]) -> dict[str, Any]:
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    return finished.report


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Tell latents of decoders that differ by a level from those of other pictures."""
    assert found.keys() == expected.keys()
    pairs = (torch.stack([found[key].float().flatten(), expected[key].float().flatten()]) for key in found)
    assert all(torch.corrcoef(pair)[0, 1] > 0.9 for pair in pairs)


def latents_of(folder: Path, name: str = "latents") -> dict[str, Tensor]:
    source = open_latents(folder)
    shards = map(source.read, source.shards)
    return {
        record.key: row
        for shard in shards
        for record, row in zip(shard.records, real_values(shard.tensors, name), strict=True)
    }


def test_a_set_of_them_says_who_decoded_what_and_how_close_it_is(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    events = run(photos, ON_DEVICE, tokenizer, tmp_path / "set")
    report = report_of(events)["decode_on"]
    assert (report["images_by_device"], report["images_by_cpu"]) == (BY_DEVICE, BY_CPU)
    assert report["decoder"].startswith(NAME)
    assert 45 < report["psnr_db_to_cpu"]["min"] <= report["psnr_db_to_cpu"]["mean"] < 60
    assert report["psnr_db_to_cpu"]["num_images"] == BY_DEVICE
    assert [event.key for event in events if isinstance(event, Failure)] == FAILED
    preprocessing = json.loads((tmp_path / "set" / "manifest.json").read_text())["provenance"]["preprocessing"]
    assert preprocessing["reader"].startswith(NAME)
    assert preprocessing["resize"].startswith("float32 lanczos, ")


def test_others_have_the_latents_of_a_cpu_and_theirs_are_near(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    run(photos, ON_DEVICE, tokenizer, tmp_path / "device")
    run(photos, ON_CPU, tokenizer, tmp_path / "cpu")
    found, expected = latents_of(tmp_path / "device"), latents_of(tmp_path / "cpu")
    assert found.keys() == expected.keys()
    equal = {key for key in found if torch.equal(found[key], expected[key])}
    assert equal == {"grey.jpg", "profile.jpg", "other.png"}
    assert all(
        torch.corrcoef(torch.stack([found[key].flatten(), expected[key].flatten()]))[0, 1] > 0.9 for key in found
    )


def test_the_same_again_gives_the_same_bytes_and_the_other_way_is_another_set(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name in ("one", "other"):
        run(photos, ON_DEVICE, tokenizer, tmp_path / name)
    assert lasting(tmp_path / "one") == lasting(tmp_path / "other")
    with pytest.raises(UsageError, match=r"preprocessing.decode_on: cuda -> None"):
        run(photos, ON_CPU, tokenizer, tmp_path / "one", mix_versions=True)


def read(photos: Path, load: LoadSettings, reads_by: Callable[[ThreadReading], Any]) -> dict[str, LoadedImage]:
    """Read all images of a folder, size by size."""
    found: dict[str, LoadedImage] = {}

    def take(call: LoadedCall) -> None:
        batch = call.batch()
        for image, row in zip(call.images, batch, strict=True):
            assert torch.equal(image.pixels, row)
            found[image.record.key] = image

    with Loader(load, 16, 2) as loader, Workers(2) as workers:
        planned, _ = loader.plan(in_views(find_images([photos]).images, [], load.views)[0])
        buckets: dict[tuple[int, int], list[PlannedImage]] = {}
        for one in planned:
            buckets.setdefault(one.bucket, []).append(one)
        for images in buckets.values():
            reads_by(ThreadReading(loader, workers)).submit(images, take).result()
    return found


@pytest.mark.parametrize(
    "load",
    [
        ON_DEVICE,
        LoadSettings(GeometrySettings(), ReadSettings(decode_on="cuda")),
        LoadSettings(GeometrySettings(size=(32, 64)), ReadSettings(decode_on="cuda")),
        LoadSettings(GeometrySettings(size=48), ReadSettings(decode_on="cuda"), CropSettings(number=2, seed=3)),
    ],
    ids=["size", "native", "sizes", "crops"],
)
def test_pixels_are_those_of_a_cpu_but_for_what_the_decoder_makes_of_them(photos: Path, load: LoadSettings) -> None:
    on_cpu = replace(load, read=ReadSettings())
    found = read(photos, load, lambda threads: DeviceReading(threads, device_jpegs(CPU)))
    expected = read(photos, on_cpu, lambda threads: threads)
    assert found.keys() == expected.keys()
    for key, image in found.items():
        assert image.record == expected[key].record
        assert image.pixels.shape == expected[key].pixels.shape
        assert psnr_db(image.pixels.contiguous(), expected[key].pixels.contiguous()) > 40


def test_views_of_a_file_are_decoded_once(photos: Path, decoder: Decoder) -> None:
    load = LoadSettings(GeometrySettings(size=48), ReadSettings(decode_on="cuda"), CropSettings(number=3, seed=3))
    jpegs = device_jpegs(CPU)
    decoder.calls.clear()  # those of trying it out
    assert len(read(photos, load, lambda threads: DeviceReading(threads, jpegs))) == 3 * (BY_DEVICE + BY_CPU)
    assert sum(decoder.calls) == BY_DEVICE


def test_many_pixels_are_decoded_by_several_calls(
    photos: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpegs = device_jpegs(CPU)
    decoder.calls.clear()
    monkeypatch.setattr(device_reading, "_MOST_PIXELS", 2 * 90 * 120)
    read(photos, ON_DEVICE, lambda threads: DeviceReading(threads, jpegs))
    assert sum(decoder.calls) == BY_DEVICE
    assert max(decoder.calls) < 5


def test_what_the_device_refuses_a_cpu_decodes(
    photos: Path, tokenizer: Tokenizer, decoder: Decoder, tmp_path: Path
) -> None:
    device_jpegs(CPU)

    def refuse_some(data: bytes) -> Tensor:
        if data == (photos / "plain3.jpg").read_bytes():
            raise RuntimeError(f"Error while decoding JPEG images: Failed to decode: {REFUSED}\nand a page of stack")
        if data == (photos / "plain4.jpg").read_bytes():
            return torch.zeros(3, 8, 8, dtype=torch.uint8)
        return a_level_off(data)

    decoder.decode = refuse_some
    report = report_of(run(photos, ON_DEVICE, tokenizer, tmp_path / "set"))
    assert report["images"]["ok"] == BY_DEVICE + BY_CPU
    assert report["decode_on"]["images_by_device"] == BY_DEVICE - 2
    assert report["decode_on"]["images_by_cpu"] == BY_CPU + 2
    run(photos, ON_CPU, tokenizer, tmp_path / "cpu")
    found, expected = latents_of(tmp_path / "set"), latents_of(tmp_path / "cpu")
    assert all(torch.equal(found[key], expected[key]) for key in ("plain3.jpg", "plain4.jpg"))
    rows = map(json.loads, (tmp_path / "set" / "index.jsonl").read_text().splitlines())
    noted = {row["key"] for row in rows if "the GPU could not decode it: decoded by the CPU" in row.get("notes", ())}
    assert noted == {"plain3.jpg", "plain4.jpg"}


@pytest.mark.parametrize("trouble", [OUT_OF_MEMORY, f"Error while decoding JPEG images: Failed to decode: {NO_MEMORY}"])
def test_without_memory_for_a_call_it_is_decoded_one_by_one_and_one_alone_is_a_failure(
    photos: Path, tokenizer: Tokenizer, decoder: Decoder, tmp_path: Path, trouble: str
) -> None:
    too_large = (photos / "plain5.jpg").read_bytes()
    jpegs, by_themselves = device_jpegs(CPU), list[bytes]()

    def decode(files: Sequence[Tensor], *_: object) -> list[Tensor]:
        data = files[0].numpy().tobytes()
        if len(files) > 1 or data == too_large:
            raise RuntimeError(trouble)
        by_themselves.append(data)
        return [a_level_off(data)]

    jpegs._operator = decode
    events = run(photos, ON_DEVICE, tokenizer, tmp_path / "set")
    failures = {event.key: event.reason for event in events if isinstance(event, Failure)}
    assert sorted(failures) == sorted([*FAILED, "plain5.jpg"])
    assert failures["plain5.jpg"].startswith("the GPU could not decode it now (")
    assert len({*by_themselves}) == BY_DEVICE - 1
    jpegs._operator = decoder
    events = run(photos, ON_DEVICE, tokenizer, tmp_path / "set")  # with memory it is tried again
    assert report_of(events)["images"]["ok"] == BY_DEVICE + BY_CPU
    run(photos, ON_DEVICE, tokenizer, tmp_path / "other")
    found, expected = latents_of(tmp_path / "set"), latents_of(tmp_path / "other")
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_memory_that_a_model_call_has_is_waited_for(photos: Path, decoder: Decoder) -> None:
    jpegs, waited = device_jpegs(CPU), list[str]()
    plain5 = (photos / "plain5.jpg").read_bytes()

    @contextmanager
    def without_calls() -> Iterator[None]:
        waited.append("begun")
        yield
        waited.append("ended")

    def decode(data: bytes) -> Tensor:
        if data == plain5 and waited[-1:] != ["begun"]:
            raise RuntimeError(OUT_OF_MEMORY)
        return a_level_off(data)

    decoder.decode = decode
    found = read(photos, ON_DEVICE, lambda threads: DeviceReading(threads, jpegs, without_calls))
    assert len(found) == BY_DEVICE + BY_CPU
    assert waited == ["begun", "ended"]


def test_without_memory_for_the_pixels_of_a_call_its_images_are_failures(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Tensor:
        raise RuntimeError(OUT_OF_MEMORY)

    with monkeypatch.context() as patched:
        patched.setattr(device_reading, "_rows_for", none)
        report = report_of(run(photos, ON_DEVICE, tokenizer, tmp_path / "set"))
    assert report["images"]["ok"] == 0
    report = report_of(run(photos, ON_DEVICE, tokenizer, tmp_path / "set"))
    assert report["images"]["ok"] == BY_DEVICE + BY_CPU


def test_without_memory_to_mirror_images_they_are_failures(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = LoadedCall.batch

    def no_twins(self: LoadedCall, *, are_mirrored: bool = False) -> Tensor:
        if are_mirrored:
            raise RuntimeError(OUT_OF_MEMORY)
        return batch(self)

    monkeypatch.setattr(LoadedCall, "batch", no_twins)
    events = run(photos, ON_DEVICE, tokenizer, tmp_path / "set", flip="both")
    reasons = {event.reason for event in events if isinstance(event, Failure) and event.key not in FAILED}
    assert reasons == {"not enough memory for the pixels of a call"}


def test_some_pictures_are_compared_and_no_more(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_reading, "_COMPARED", 5)
    report = report_of(run(photos, ON_DEVICE, tokenizer, tmp_path / "set"))
    assert report["decode_on"]["psnr_db_to_cpu"]["num_images"] == 5


def test_fine_lines_in_other_colours_are_no_other_picture(
    tokenizer: Tokenizer, decoder: Decoder, tmp_path: Path
) -> None:
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::2] = 255
    (tmp_path / "chart").mkdir()
    Image.fromarray(lines).save(tmp_path / "chart" / "lines.jpg", quality=95)
    device_jpegs(CPU)
    decoder.decode = lambda data: a_level_off(data).roll(1, -1)  # every pixel is another one
    report = report_of(run(tmp_path / "chart", ON_DEVICE, tokenizer, tmp_path / "set"))
    assert report["decode_on"]["psnr_db_to_cpu"]["min"] < 10
    assert report["images"]["ok"] == 1


def test_files_are_gone_while_the_model_computes(photos: Path) -> None:
    counts: list[int] = []

    def compute(_: LoadedCall) -> None:
        counts.append(sum(type(one) is UndecodedImage for one in gc.get_objects()))

    with Loader(ON_DEVICE, 16, 2) as loader, Workers(2, 1, shares_cores=False) as workers:
        planned, _ = loader.plan(find_images([photos]).images)
        DeviceReading(ThreadReading(loader, workers), device_jpegs(CPU)).submit(planned, compute).result()
    assert counts == [0]


def test_files_count_among_what_is_held(photos: Path) -> None:
    with Loader(ON_DEVICE, 16, 2) as loader, Workers(2) as workers:
        planned, _ = loader.plan(find_images([photos]).images)
        reading = DeviceReading(ThreadReading(loader, workers), device_jpegs(CPU))
        num_bytes = sum(path.stat().st_size for path in photos.iterdir())
        assert reading.share(planned, 0.25) == pytest.approx(0.25 + workers.share_of_bytes(2 * num_bytes))
        views = [view for one in planned for view in (one, one)]  # of a file, which is held once
        assert reading.share(views, 0.25) == reading.share(planned, 0.25)


def test_of_several_processes_the_report_has_all() -> None:
    one = DecodedOn(("cuda:1",), "nvjpeg").plus(by_device=3, by_cpu=1, closeness_db=(40.0, 50.0))
    other = DecodedOn(("cuda:0",), "nvjpeg").plus(by_device=4)
    assert beside(None, None) is None
    assert decoding_report(beside(beside(None, one), other)) == {
        "decode_on": {
            "devices": ["cuda:0", "cuda:1"],
            "decoder": "nvjpeg",
            "images_by_device": 7,
            "images_by_cpu": 1,
            "psnr_db_to_cpu": {"mean": 45.0, "min": 40.0, "num_images": 2},
        }
    }
    assert decoding_report(None) == {}


def test_a_run_ends_where_a_picture_comes_back_as_another_one(
    photos: Path, tokenizer: Tokenizer, decoder: Decoder, tmp_path: Path
) -> None:
    device_jpegs(CPU)
    decoder.decode = lambda data: a_level_off(data).flip(-1)
    with pytest.raises(UsageError, match=r"^plain\d.jpg: --decode-on cuda makes another picture of it than a CPU does"):
        run(photos, ON_DEVICE, tokenizer, tmp_path / "set")


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        (lambda data: a_level_off(data).flip(-1), r"a picture comes back as another one, \d+.\d dB"),
        (lambda data: a_level_off(data)[:, 1:], "it refuses plain JPEGs"),
    ],
    ids=["mirrored", "smaller"],
)
def test_a_decoder_that_is_wrong_is_found_out_before_a_run(
    photos: Path,
    tokenizer: Tokenizer,
    decoder: Decoder,
    tmp_path: Path,
    decode: Callable[[bytes], Tensor],
    reason: str,
) -> None:
    decoder.decode = decode
    with pytest.raises(UsageError, match=reason):
        run(photos, ON_DEVICE, tokenizer, tmp_path / "set")


def test_one_that_decodes_nothing_is_found_out_too(decoder: Decoder) -> None:
    def refuse(_: bytes) -> Tensor:
        raise RuntimeError("no NVJPG engine\nand a page of stack")

    decoder.decode = refuse
    with pytest.raises(UsageError, match=r"torchvision cannot decode on this device \(no NVJPG engine\)"):
        DeviceJpegs(CPU, decoder).check()


def test_a_model_on_a_cpu_has_no_device_to_decode_on(photos: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--decode-on cuda: the model is on a CPU; give --device cuda"):
        run(photos, ON_DEVICE, Tokenizer.load(str(tiny), TokenizerSettings(batch_size=4)), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_without_torchvision_that_fits_it_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("Could not load this library: image.so")

    monkeypatch.setattr(on_device, "load_operators", fail)
    with pytest.raises(UsageError, match=r"torchvision cannot decode on this device \(Could not load this library"):
        FIND_OPERATOR()


@pytest.mark.parametrize(
    ("geometry", "read_settings", "reason"),
    [
        ({"size": 64, "resize": "adm"}, {}, "cuda does not go with --resize adm"),
        ({"size": 64}, {"jpeg_scaling": True}, "does not go with --decode-on cuda"),
    ],
)
def test_exact_pixels_and_scaled_ones_are_a_matter_of_cpus(
    geometry: dict[str, Any], read_settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        LoadSettings(GeometrySettings(**geometry), ReadSettings(decode_on="cuda", **read_settings))


def test_mirrored_twins_are_made_of_the_same_pixels(photos: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    run(photos, ON_DEVICE, tokenizer, tmp_path / "device", flip="both")
    run(photos, ON_CPU, tokenizer, tmp_path / "cpu", flip="both")
    for name in ("latents", "latents_flip"):
        found, expected = (latents_of(tmp_path / where, name) for where in ("device", "cpu"))
        assert_near(found, expected)


def test_a_round_trip_is_measured_against_what_the_device_decoded(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def trip(load: LoadSettings, output: Path) -> list[Event]:
        with Loader(load, tokenizer.patch_size, 2) as loader:
            plan = plan_encode(find_images([photos]), loader, tokenizer, EncodeSettings())
            return list(roundtrip(plan, loader, tokenizer, RoundtripSettings(), output))

    events = trip(ON_DEVICE, tmp_path / "device")
    assert report_of(events)["decode_on"]["images_by_device"] == BY_DEVICE
    found, expected = (
        {one.key: one.psnr_db for one in some if isinstance(one, ImageMeasured)}
        for some in (events, trip(ON_CPU, tmp_path / "cpu"))
    )
    assert found.keys() == expected.keys()
    equal = {key for key in found if found[key] == expected[key]}
    assert equal == {"grey.jpg", "profile.jpg", "other.png"}
