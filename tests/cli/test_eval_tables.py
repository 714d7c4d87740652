"""Tables of `eval`, from a report."""

from typing import Any

from semdis_cli.cli.eval_tables import sections


def report_of(low: float, mean: float, high: float) -> dict[str, Any]:
    """What a run over ten images reports of two contenders."""
    statistics = dict.fromkeys(("mean", "std", "median", "p5", "p95", "min", "max"), 30.0) | {"num": 10}
    difference = {"mean": mean, "low": low, "high": high, "num": 10, "num_better": 4, "level": 0.95}
    contenders = [
        {"title": title, "figures": {"psnr_db": statistics}, "differences": {"psnr_db": difference} if number else {}}
        for number, title in enumerate(("one", "other"))
    ]
    measures = {"metrics": ["psnr_db"]}
    return {"images": {"ok": 10}, "contenders": contenders, "measures": measures, "worst": []}


def test_a_difference_that_is_shown_as_zero_is_not_below_it() -> None:
    shown = [row for section in sections(report_of(-0.004, -0.001, 0.004)) for row in section.rows]
    assert ("other", "PSNR", "+0.00", "+0.00 .. +0.00", "4 of 10") in shown
    shown = [row for section in sections(report_of(-0.3, -0.2, 0.1)) for row in section.rows]
    assert ("other", "PSNR", "-0.20", "-0.30 .. +0.10", "4 of 10") in shown
