"""The plan of an encode: its settings, which image goes into which shard, and how large it all gets."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import merge
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from semdis_cli.columns.find import find_columns
from semdis_cli.columns.maker import NO_COLUMNS_MADE, Columns
from semdis_cli.errors import UsageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.images.adm import ADM_NAME
from semdis_cli.images.formats.jpeg.on_device import device_decoder, device_jpegs
from semdis_cli.images.loader import Loader
from semdis_cli.images.resize import resize_name
from semdis_cli.images.resize_on_device import NAME as NAME_ON_DEVICE
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.parts import MASK
from semdis_cli.pipeline.processes.headers import header_reading
from semdis_cli.pipeline.report import compute_record, model_record
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.settings import EncodeSettings, FilterSettings, LatentSettings, LoadSettings, PartSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.sources.views import files_of, in_views
from semdis_cli.store.columns import SetColumns
from semdis_cli.store.writing.changes import Choice
from semdis_cli.store.writing.comparison import find_changes
from semdis_cli.store.writing.finished import NO_BASE, Base, finished_base, recorded_settings
from semdis_cli.store.writing.plan import PlannedShard, SetPlan, plan_sha256, plan_shards
from semdis_cli.store.writing.twins import drop_twins

Latents = TypeVar("Latents", bound=LatentSettings)


@dataclass(frozen=True)
class EncodePlan:
    """Everything that is known before the first image is encoded: what is to be written, and how."""

    contents: SetPlan
    provenance: Provenance
    passed_over: Mapping[str, int] = field(default_factory=dict)  # files that are no inputs, by kind
    columns: Columns = NO_COLUMNS_MADE

    @property
    def layout(self) -> LatentLayout:
        """Sizes of the latents to be written."""
        return self.provenance.layout

    @property
    def shards(self) -> Sequence[PlannedShard]:
        """The shards to be written."""
        return self.contents.shards

    @property
    def failures(self) -> Sequence[Failure]:
        """Inputs that are known to be unusable, sorted by key."""
        return self.contents.failures

    @property
    def sha256(self) -> str:
        """Of the whole plan, settings included."""
        return self.contents.sha256

    def latent_bytes(self, shards: Iterable[PlannedShard] | None = None) -> int:
        """Bytes of the latents of `shards` (default: all), headers not counted, if no image fails."""
        return sum(len(s.images) * self.layout.latent_bytes(s.bucket) for s in self._or_all(shards))

    def megapixels(self, shards: Iterable[PlannedShard] | None = None) -> float:
        """Model input pixels (10^6) of `shards` (default: all)."""
        return sum(len(s.images) * s.bucket[0] * s.bucket[1] for s in self._or_all(shards)) / 1e6

    def bucket_counts(self) -> dict[tuple[int, int], int]:
        """Count the images that are to be encoded by bucket, (H, W) in px; smallest first."""
        counts: Counter[tuple[int, int]] = Counter()
        for shard in self.shards:
            counts[shard.bucket] += len(shard.images)
        return dict(sorted(counts.items()))

    def _or_all(self, shards: Iterable[PlannedShard] | None) -> Iterable[PlannedShard]:
        return self.shards if shards is None else shards

    @property
    def num_unchanged(self) -> int:
        """Inputs whose latents are there already."""
        return self.contents.changes.num_taken

    @property
    def num_inputs(self) -> int:
        """All inputs but those that are left out; failures and those that have latents already included."""
        return self.contents.num_inputs

    @property
    def num_left_out(self) -> dict[str, int]:
        """Number of inputs that each filter leaves out, in this run or since an earlier one."""
        new = Counter(one.reason for one in self.contents.left_out)
        return dict(sorted((new + Counter(self.contents.changes.num_left_out)).items()))


def latent_layout(tokenizer: Tokenizer, settings: PartSettings) -> LatentLayout:
    """Return what the size of a latent follows from."""
    return LatentLayout(tokenizer.patch_size, tokenizer.latent_channels, settings.store_dtype, settings.parts)


def plan_encode(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    base: Base | None = None,
    provenance: Provenance | None = None,
    tell: Tell = untold,
) -> EncodePlan:
    """Which image goes where, and how large it all gets; with `base`, what is to be done beyond what that holds.

    `provenance`: under which record it is done, if not under that of `tokenizer`, `loader` and `settings`. `tell` hears
    of it as it goes. Raises `UsageError` if there is no input at all, and what `find_columns` raises.
    """
    if not found.images and not found.failures:
        kinds = f": {found.ignored_kinds}" if found.num_ignored else ""
        raise UsageError(f"no images found ({found.num_ignored} other files were passed over{kinds})")
    base, filters = base or NO_BASE, settings.filters
    loader = loader.reading_headers_by(partial(header_reading, is_on_cpu=tokenizer.is_on_cpu))
    filters.check(loader.settings.geometry)
    if base.manifest is not None:
        tell(Planning("comparing with the set"))
    hashes = partial(loader.hashes, tell=tell)
    assert (MASK in settings.latents.parts) == (loader.masks is not None), "masks are made by the loader"
    images, failed = in_views(loader.stamped(found.images), found.failures, loader.settings.views)
    changes = find_changes(base, images, failed, hashes, _choice(filters, loader))
    columns_for = partial(find_columns, found, settings.columns, known=_known_columns(base), tell=tell)
    columns = columns_for(files_of(changes.to_encode))
    planned, unreadable, left_out = loader.choose(changes.to_encode, filters, tell)
    if filters.dedupe:
        changes, planned, alone = drop_twins(changes, planned, hashes)
        columns = columns_for(files_of([*changes.to_encode, *alone])) if alone else columns
        more = loader.choose(alone, filters, tell)
        planned = PlannedImages.of(merge(planned, more.images, key=lambda image: image.source.key))
        unreadable, left_out = unreadable + more.failures, left_out + more.left_out
    failures = sorted((*failed, *unreadable), key=lambda failure: failure.key)
    left_out = sorted((*changes.left_out, *left_out), key=lambda one: one.key)
    provenance = provenance or encode_provenance(tokenizer, loader.settings, settings.latents)
    shards = plan_shards(
        planned,
        provenance.layout,
        shard_bytes=settings.shards.shard_mib * 2**20,
        shard_images=settings.shards.shard_images,
        first_number=base.next_number,
    )
    sha256 = plan_sha256(provenance, shards, failures, base, changes, columns.classes, left_out)
    contents = SetPlan(tuple(shards), tuple(failures), changes, sha256, columns.classes, tuple(left_out))
    return EncodePlan(contents, provenance, found.passed_over, columns)


def _choice(filters: FilterSettings, loader: Loader) -> Choice:
    if not filters.need_sizes:
        return Choice(drops_twins=filters.dedupe)
    return Choice(lambda image, size: loader.why_left_out(image.view, size, filters), filters.dedupe)


def _known_columns(base: Base) -> SetColumns | None:
    """Return the columns of a set that is to grow; None if it has no latents yet, and so may still get any."""
    manifest = base.manifest
    if manifest is None or not (manifest.columns or manifest.num_ok or manifest.num_removed):
        return None
    return manifest.columns


def plan_output(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    output: Path | None,
    tell: Tell = untold,
) -> EncodePlan:
    """Return what `encode` would do, without touching anything; `output` None: into a stream.

    Raises what `encode` would. An unfinished run counts as none.
    """
    base = NO_BASE
    if output is not None:
        settings = replace(settings, latents=sampled_as(settings.latents, recorded_settings(output)))
        provenance = encode_provenance(tokenizer, loader.settings, settings.latents)
        base = finished_base(output, provenance, mix_versions=settings.shards.mix_versions)
    return plan_encode(found, loader, tokenizer, settings, base, tell=tell)


def sampled_as(latents: Latents, recorded: Provenance | None) -> Latents:
    """Return `latents`, with samples drawn by PyTorch if those under the settings on record were."""
    is_former = recorded is not None and recorded.noise == "torch"
    return replace(latents, noise="torch") if is_former else latents


def encode_provenance(tokenizer: Tokenizer, load: LoadSettings, latents: PartSettings) -> Provenance:
    """Record every setting that decides the bytes of a latent: equal records, equal bytes.

    Raises `UsageError` for settings that the model cannot serve.
    """
    if latents.posterior == "moments" and not tokenizer.has_spread:
        raise UsageError("--posterior moments: the encoder of this model is deterministic; leave the option out")
    posterior: dict[str, Any] = {"kind": latents.posterior}
    if latents.sample_seed is not None:
        posterior["seed"] = latents.sample_seed
        if latents.noise != "torch":  # the only one when none was noted
            posterior["noise"] = latents.noise
    fields: dict[str, Any] = {
        "model": model_record(tokenizer),
        "channels": tokenizer.latent_channels,
        "patch_size": tokenizer.patch_size,
        "whitened": tokenizer.is_whitened,
        "whitening": _whitening_record(tokenizer),
        "posterior": posterior,
        "dtype": latents.store_dtype,
        "preprocessing": {
            "geometry": load.geometry_record(),
            "background": list(load.read.background),
            "max_image_pixels": load.read.max_image_pixels,
            **reading_record(tokenizer, load),
            "jpeg_scaling": load.read.jpeg_scaling,
        },
        "compute": compute_record(tokenizer),
    }
    if latents.parts:
        fields["parts"] = list(latents.parts)
    if latents.mask_source is not None:
        fields["mask"] = latents.mask_source
    return Provenance.from_json(fields)


def reading_record(tokenizer: Tokenizer, load: LoadSettings) -> dict[str, str]:
    """Return what decodes and resizes images here. Raises `UsageError` for a device that cannot."""
    reader, resize = f"pillow {version('pillow')}", ADM_NAME if load.geometry.resize == "adm" else resize_name()
    if load.read.decode_on == "cpu":
        return {"reader": reader, "resize": resize}
    device = tokenizer.model.device
    if tokenizer.is_on_cpu or device.type not in {"cuda", "cpu"}:
        where = "a CPU" if tokenizer.is_on_cpu else device.type
        raise UsageError(f"--decode-on cuda: the model is on {where}; give --device cuda, or leave the option out")
    if device.type == "cuda":  # else it is that of a cluster
        device_jpegs(device)
    on_device = {"reader": f"{device_decoder()}, {reader}", "resize": f"{NAME_ON_DEVICE}, {resize}"}
    return on_device | {"decode_on": load.read.decode_on}


def _whitening_record(tokenizer: Tokenizer) -> dict[str, list[float]] | None:
    """Return what gives raw latents back without the model; each float in the fewest digits that tell float32 apart."""
    if tokenizer.whitening is None:
        return None
    mean, std = ([float(str(value)) for value in values.numpy()] for values in tokenizer.whitening)
    return {"mean": mean, "std": std}
