"""The contender that this is about: a model, how its latents are stored, and how they are decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semdis_cli.events import Failure
from semdis_cli.images.geometry import undo_padding
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import as_stored, encode_images
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.decode import sampling_record
from semdis_cli.pipeline.reading import LoadedCall
from semdis_cli.pipeline.report import compute_record, model_record
from semdis_cli.records import LoadedImage
from semdis_cli.settings import LatentSettings
from semdis_cli.store.quantised import real_values
from semdis_cli.wording import count


class Kept(NamedTuple):
    """Images whose latents can be stored: these as they are read again, [B,Z,h,w] float32, and the bytes of each.

    `failures`: of the others.
    """

    images: Sequence[LoadedImage]
    latents: Tensor
    num_bytes: Sequence[int]
    failures: Sequence[Failure]


@dataclass(frozen=True)
class TokenizedContender:
    """Images through `tokenizer`, their latents through the stored dtype, and back by `sampling`."""

    title: str
    tokenizer: Tokenizer
    latents: LatentSettings
    sampling: FCDMDiffAEInferenceConfig

    def record(self) -> dict[str, Any]:
        """Return the model, how it computes, what latents are stored in, and how they are decoded."""
        return {
            "model": model_record(self.tokenizer),
            "compute": compute_record(self.tokenizer),
            "store_dtype": self.latents.store_dtype,
            "posterior": self.latents.posterior,
            "sampling": sampling_record(self.sampling),
        }

    def keep(self, call: LoadedCall) -> Kept:
        """Encode what could be read, and store it: what `encode` would refuse is a failure.

        Raises `UnreadableImageError` for images that are too large for the memory.
        """
        latents, dtype = encode_images(call, self.tokenizer, self.latents), self.latents.store_dtype
        tried = [as_stored(image, {"latents": one}, dtype) for image, one in zip(call.images, latents, strict=True)]
        stored = [one for one in tried if not isinstance(one, Failure)]
        images = [image for image, one in zip(call.images, tried, strict=True) if not isinstance(one, Failure)]
        again = [real_values(one).float() for one in stored]
        num_bytes = [sum(tensor.nbytes for tensor in one.values()) for one in stored]
        failures = [one for one in tried if isinstance(one, Failure)]
        return Kept(images, torch.stack(again) if again else latents[:0], num_bytes, failures)

    def give_back(self, kept: Kept) -> list[Version]:
        """Decode what was kept. Raises as `keep`."""
        if not kept.images:
            return []
        pixels = self.tokenizer.decode(kept.latents, [image.record.key for image in kept.images], self.sampling)
        return [
            Version(undo_padding(one.numpy(), image.record.geometry), num_bytes)
            for image, one, num_bytes in zip(kept.images, pixels, kept.num_bytes, strict=True)
        ]

    def reconstruct(self, images: Sequence[LoadedImage], budgets: Sequence[int]) -> list[Version | None]:  # noqa: ARG002
        """Return what comes back of images, beside another contender. Raises as `keep`."""
        kept = self.keep(LoadedCall(images))
        found = dict(zip((image.record.key for image in kept.images), self.give_back(kept), strict=True))
        return [found.get(image.record.key) for image in images]


def title_of(tokenizer: Tokenizer, sampling: FCDMDiffAEInferenceConfig) -> str:
    """Name a contender by its model and steps: `semdis-small, 10 steps + PDG`."""
    name = Path(tokenizer.identity.name).name
    if sampling.num_steps == 1 and not sampling.pdg:
        return name
    return f"{name}, {count(sampling.num_steps, 'step')}{' + PDG' if sampling.pdg else ''}"
