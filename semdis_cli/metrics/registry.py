"""The figures that an image can have, in the order in which they are shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A figure of one image: its `name` in files, and how it is shown, with `digits` after the point."""

    name: str
    title: str
    unit: str
    digits: int
    is_better_high: bool


PSNR_DB, BITS_PER_PIXEL = "psnr_db", "bits_per_pixel"

METRICS = {
    metric.name: metric
    for metric in (
        Metric(PSNR_DB, "PSNR", "dB", digits=2, is_better_high=True),
        Metric("ssim", "SSIM", "", digits=4, is_better_high=True),
        Metric("ms_ssim", "MS-SSIM", "", digits=4, is_better_high=True),
        Metric("lpips", "LPIPS", "", digits=4, is_better_high=False),
        Metric(BITS_PER_PIXEL, "Bits/pixel", "", digits=3, is_better_high=False),
    )
}
