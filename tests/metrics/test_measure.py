"""What is measured by settings."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semdis_cli.errors import CheckpointError
from semdis_cli.memory import Room
from semdis_cli.metrics.inception import NETWORK
from semdis_cli.metrics.lpips import NETWORKS, Lpips
from semdis_cli.metrics.measure import Measurer
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.metrics.registry import METRICS
from semdis_cli.metrics.ssim import structure
from semdis_cli.option import OptionError
from semdis_cli.settings.measures import METRIC_NAMES, MeasureSettings, parse_metrics, spell_metrics
from tests.metrics.random_weights import random_tensors, write

CPU = torch.device("cpu")


def pair(seed: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randint(0, 200, (3, height, width), dtype=torch.uint8, generator=generator)
    return reference + torch.randint(0, 20, (3, height, width), dtype=torch.uint8, generator=generator), reference


def measurer(text: str = "psnr,ssim") -> Measurer:
    return Measurer.of(MeasureSettings(parse_metrics(text)), CPU)


def test_pairs_get_psnr_and_ssim_unless_something_else_is_asked_for() -> None:
    image, reference = pair(1, 40, 30)
    (found,) = Measurer.of(MeasureSettings(), CPU).measure([(image, reference)])
    expected = structure(image, reference, multiscale=False)
    assert found == {"psnr_db": psnr_db(image, reference), "ssim": expected.ssim}


def test_figures_come_in_the_order_of_the_registry() -> None:
    (found,) = measurer("ms-ssim,ssim,psnr").measure([pair(1, 161, 170)])
    assert list(found) == ["psnr_db", "ssim", "ms_ssim"] == [name for name in METRICS if name in found]


def test_each_metric_can_be_had_alone_beside_psnr() -> None:
    for text, names in (("psnr", []), ("ssim", ["ssim"]), ("ms-ssim", ["ms_ssim"])):
        (found,) = measurer(text).measure([pair(1, 161, 170)])
        assert list(found) == ["psnr_db", *names]


def test_what_an_image_is_too_small_for_is_left_out() -> None:
    found = measurer("psnr,ssim,ms-ssim").measure([pair(1, 10, 300), pair(2, 160, 300), pair(3, 161, 300)])
    assert [list(one) for one in found] == [["psnr_db"], ["psnr_db", "ssim"], ["psnr_db", "ssim", "ms_ssim"]]


def test_equal_images_have_100_db() -> None:
    image, _ = pair(1, 20, 20)
    assert measurer().measure([(image, image)]) == [{"psnr_db": 100.0, "ssim": 1.0}]


def test_no_pairs_have_no_figures() -> None:
    assert measurer().measure([]) == []


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return write(folder / "lpips-alex.safetensors", random_tensors(NETWORKS["alex"]))


def test_weights_of_lpips_switch_it_on(weights: Path) -> None:
    pairs = [pair(1, 40, 50), pair(2, 33, 31), pair(3, 40, 50), pair(4, 30, 50)]
    found = Measurer.of(MeasureSettings(lpips_weights=weights), CPU).measure(pairs)
    assert [list(one) for one in found] == [["psnr_db", "ssim", "lpips"]] * 3 + [["psnr_db", "ssim"]]
    lpips = Lpips.load(weights, CPU)
    for one, (image, reference) in zip(found[:3], pairs, strict=False):
        assert one["lpips"] == pytest.approx(lpips.distances(image[None], reference[None])[0], rel=1e-5)


def test_many_pairs_go_through_the_network_in_parts(weights: Path) -> None:
    one = Measurer.of(MeasureSettings(frozenset({"lpips"}), lpips_weights=weights), CPU)
    pairs = [pair(seed, 200, 200) for seed in range(8)]  # more than are measured at once
    assert [list(figures) for figures in one.measure(pairs)] == [["psnr_db", "lpips"]] * 8
    assert one.measure(pairs)[7]["lpips"] == pytest.approx(one.measure(pairs[7:])[0]["lpips"], rel=1e-5)


def test_an_image_that_can_never_have_the_memory_gets_no_lpips(weights: Path) -> None:
    one = Measurer.of(MeasureSettings(lpips_weights=weights), CPU)
    small, large = pair(1, 40, 50), pair(2, 1024, 1024)
    assert one.lpips is not None
    tight = replace(one, room=Room(one.lpips.needed_bytes(1, 1024, 1024) - 1))
    assert [list(figures) for figures in tight.measure([large, small])] == [
        ["psnr_db", "ssim"],
        ["psnr_db", "ssim", "lpips"],
    ]
    roomy = replace(one, room=Room(one.lpips.needed_bytes(1, 1024, 1024)))
    assert "lpips" in roomy.measure([large])[0]


def test_lpips_without_weights_is_refused_in_a_line_that_says_how_to_get_them() -> None:
    with pytest.raises(OptionError, match=r"^--metrics lpips needs --lpips-weights FILE, .*quality.md") as caught:
        MeasureSettings(frozenset({"lpips"}))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    for settings in (MeasureSettings(lpips_weights=tmp_path / "x"), MeasureSettings(inception=tmp_path / "x")):
        with pytest.raises(CheckpointError, match="x: cannot be read"):
            Measurer.of(settings, CPU)


def test_without_inception_there_are_no_features() -> None:
    assert measurer().num_features == 0


def test_with_inception_there_are_and_the_record_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "inception.safetensors", random_tensors(NETWORK))
    one = Measurer.of(MeasureSettings(inception=path), CPU)
    features = one.features([pair(1, 20, 30)[0], pair(2, 50, 20)[0]])
    assert features.shape == (2, one.num_features) == (2, 2048)
    assert one.to_json()["rfid"]["file"] == "inception.safetensors"


def test_threads_share_a_measurer_and_get_what_one_gets() -> None:
    shared, pairs = measurer("psnr,ssim,ms-ssim"), [pair(seed, 161 + seed, 170) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda one: shared.measure([one])[0], pairs)) == shared.measure(pairs)


def test_the_record_says_how_it_was_measured() -> None:
    record = json.loads(json.dumps(measurer("ssim").to_json()))
    assert record["metrics"] == ["psnr_db", "ssim"]
    assert record["data_range"] == 255
    assert (record["ssim"]["window_px"], record["ssim"]["window_sigma_px"]) == (11, 1.5)
    assert record["psnr"] == {"max_db": 100.0}


def test_metrics_are_spelled_as_they_are_read() -> None:
    assert spell_metrics(parse_metrics("ssim,psnr")) == "psnr,ssim"
    assert parse_metrics(spell_metrics(METRIC_NAMES)) == set(METRIC_NAMES)


@pytest.mark.parametrize(("text", "unknown"), [("psnr,fid", "'fid'"), ("", "''"), ("ssim,", "''"), ("SSIM", "'SSIM'")])
def test_an_unknown_metric_is_named_beside_those_that_there_are(text: str, unknown: str) -> None:
    with pytest.raises(ValueError, match=f"^{unknown} is no metric; there are psnr, ssim, ms-ssim"):
        parse_metrics(text)
