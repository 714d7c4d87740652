"""The contender that this is about: a model, how its latents are stored, and how they are decoded."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from semdis_cli.events import Failure
from semdis_cli.images.geometry import undo_padding
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import as_stored, encode_images
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.pipeline.decode import sampling_of, sampling_record
from semdis_cli.pipeline.reading import LoadedCall
from semdis_cli.pipeline.report import compute_record, model_record
from semdis_cli.records import LoadedImage
from semdis_cli.settings import LatentSettings, RoundtripSettings, StoreDtype
from semdis_cli.store.quantised import real_values
from semdis_cli.wording import count


class Kept(NamedTuple):
    """Images whose latents can be stored: these as they are read again, [B,Z,h,w] float32, and the bytes of each.

    `encoded`: the latents before they were stored, float32. `failures`: of the other images.
    """

    images: Sequence[LoadedImage]
    latents: Tensor
    num_bytes: Sequence[int]
    encoded: Tensor
    failures: Sequence[Failure]


def keep_latents(images: Sequence[LoadedImage], encoded: Tensor, dtype: StoreDtype) -> Kept:
    """Store the latents of `images`, [B,Z,h,w] float32: what `encode` would refuse is a failure."""
    tried = [as_stored(image, {"latents": one}, dtype) for image, one in zip(images, encoded, strict=True)]
    stored = {row: one for row, one in enumerate(tried) if not isinstance(one, Failure)}
    again = [real_values(one).float() for one in stored.values()]
    num_bytes = [sum(tensor.nbytes for tensor in one.values()) for one in stored.values()]
    return Kept(
        images=[images[row] for row in stored],
        latents=torch.stack(again) if again else encoded[:0],
        num_bytes=num_bytes,
        encoded=encoded if len(stored) == len(images) else encoded[[*stored]],
        failures=[one for one in tried if isinstance(one, Failure)],
    )


@dataclass(frozen=True)
class TokenizedContender:
    """Images through `tokenizer`, their latents through the stored dtype, and back by `sampling`."""

    title: str
    tokenizer: Tokenizer
    latents: LatentSettings
    sampling: FCDMDiffAEInferenceConfig

    @classmethod
    def of(cls, tokenizer: Tokenizer, settings: RoundtripSettings) -> Self:
        """Return the contender that the settings of a run are about."""
        sampling = sampling_of(settings.decode)
        return cls(_title_of(tokenizer, sampling), tokenizer, settings.latents, sampling)

    @property
    def multiple_px(self) -> int:
        """Pixels of a position of the latents along each side."""
        return self.tokenizer.patch_size

    def record(self) -> dict[str, Any]:
        """Return the model, how it computes, what latents are stored in, and how they are decoded."""
        return {
            "model": model_record(self.tokenizer),
            "compute": compute_record(self.tokenizer),
            "store_dtype": self.latents.store_dtype,
            "posterior": self.latents.posterior,
            "sampling": sampling_record(self.sampling),
        }

    def least_bytes(self, size: tuple[int, int], num_images: int) -> int:
        """Memory in bytes that decoding images of `size` (H, W) cannot do without."""
        most = min(num_images, self.tokenizer.images_per_call(*size))
        return self.tokenizer.least_call_bytes(size, most, "decode", is_guided=self.sampling.pdg)

    def keep(self, call: LoadedCall) -> Kept:
        """Encode what could be read, and store it: what `encode` would refuse is a failure.

        Raises `UnreadableImageError` for images that are too large for the memory.
        """
        return keep_latents(call.images, encode_images(call, self.tokenizer, self.latents), self.latents.store_dtype)

    def hand_on(self, kept: Kept) -> Given:
        """Return the images for others, which need not encode them again where they would do it in the same way."""
        return Given(kept.images, kept.num_bytes, {self._encoded_by: kept.encoded})

    def give_back(self, kept: Kept) -> list[Version]:
        """Decode what was kept. Raises as `keep`."""
        keys = [image.record.key for image in kept.images]
        parts = self._calls(kept.images)
        pixels = [one for part in parts for one in self.tokenizer.decode(kept.latents[part], keys[part], self.sampling)]
        return [
            Version(undo_padding(one.numpy(), image.record.geometry), num_bytes)
            for image, one, num_bytes in zip(kept.images, pixels, kept.num_bytes, strict=True)
        ]

    def reconstruct(self, given: Given) -> list[Version | Failure]:
        """Return what comes back of each image. Raises as `keep`."""
        images = given.padded(self.multiple_px)
        encoded = given.once(self._encoded_by, lambda: self._encode(images))
        kept = keep_latents(images, encoded, self.latents.store_dtype)
        failures = {failure.key: failure for failure in kept.failures}
        versions = iter(self.give_back(kept))
        return [failures.get(image.record.key) or next(versions) for image in images]

    @property
    def _encoded_by(self) -> Hashable:
        """All that decides latents before they are stored."""
        seed = self.latents.sample_seed
        return "latents", self.tokenizer, seed, None if seed is None else self.latents.noise

    def _encode(self, images: Sequence[LoadedImage]) -> Tensor:
        parts = (LoadedCall(images[part]) for part in self._calls(images))
        return torch.cat([encode_images(part, self.tokenizer, self.latents) for part in parts])

    def _calls(self, images: Sequence[LoadedImage]) -> list[slice]:
        """Cut images into model calls."""
        if not images:
            return []
        most = self.tokenizer.images_per_call(*images[0].record.geometry.bucket)
        return [slice(start, start + most) for start in range(0, len(images), most)]


def _title_of(tokenizer: Tokenizer, sampling: FCDMDiffAEInferenceConfig) -> str:
    """Name a contender by its model and steps: `semdis-small, 10 steps + PDG`."""
    name = Path(tokenizer.identity.name).name
    if sampling.num_steps == 1 and not sampling.pdg:
        return name
    return f"{name}, {count(sampling.num_steps, 'step')}{' + PDG' if sampling.pdg else ''}"
