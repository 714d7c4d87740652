"""The list of figures."""

from semdis_cli.metrics.registry import METRICS


def test_every_metric_is_known_by_its_own_name() -> None:
    assert list(METRICS) == [metric.name for metric in METRICS.values()]
    assert list(METRICS) == ["psnr_db", "ssim", "ms_ssim", "lpips", "bits_per_pixel"]


def test_distances_and_bytes_are_better_when_low() -> None:
    assert [name for name, metric in METRICS.items() if not metric.is_better_high] == ["lpips", "bits_per_pixel"]
