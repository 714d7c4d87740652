"""Plans, as people and programs read them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from semdis_cli.cli.report import describe_left_out
from semdis_cli.files.json_text import strict_json
from semdis_cli.settings import GeometrySettings
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.pipeline.encode_plan import EncodePlan


def plan_json(
    command: str, plan: "EncodePlan", num_failed: int, geometry: GeometrySettings, figures: Mapping[str, Any]
) -> str:
    """Return the report of `command` on a plan as JSON; `figures`: those that it has beside the plan's own."""
    report: dict[str, Any] = {
        "command": command,
        "images": {"inputs": plan.num_inputs, "failed": num_failed, "unchanged": plan.num_unchanged},
        "shards": len(plan.shards),
        "megapixels": round(plan.megapixels(), 3),
        "latent_bytes": plan.latent_bytes(),
        **figures,
        "passed_over": dict(plan.passed_over),
        "left_out": plan.num_left_out,
    }
    if geometry.has_few_sizes:
        buckets = plan.bucket_counts().items()
        report["buckets"] = [{"image_px": list(bucket), "images": number} for bucket, number in buckets]
    return strict_json(report)


def plan_text(plan: "EncodePlan", num_failed: int, geometry: GeometrySettings, seconds: float | None = None) -> str:
    """Return what a plan comes to in a few lines; `seconds`: that it would take, if that was estimated."""
    time = "" if seconds is None else f", about {seconds:,.0f} s"
    text = (
        f"{count(plan.num_inputs, 'image')} ({num_failed:,} unusable, {plan.num_unchanged:,} there already), "
        f"{plan.megapixels():,.1f} megapixels -> "
        f"{count(len(plan.shards), 'shard')}, {count(plan.latent_bytes(), 'byte')}{time}"
    )
    lines = [text, f"left out: {describe_left_out(plan.num_left_out)}"] if plan.num_left_out else [text]
    if geometry.has_few_sizes and len(geometry.sizes) != 1:
        buckets = plan.bucket_counts().items()
        lines += [f"bucket {width}x{height}: {count(number, 'image')}" for (height, width), number in buckets]
    return "\n".join(lines)
