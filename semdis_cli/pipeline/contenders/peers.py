"""Other published autoencoders as contenders, with weights that the user has."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import Failure
from semdis_cli.images.geometry import undo_padding
from semdis_cli.model.peers import PublishedPeer
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.pipeline.contenders.tokenized import keep_latents
from semdis_cli.records import LoadedImage
from semdis_cli.settings import StoreDtype
from semdis_cli.tensors import is_out_of_memory


@dataclass(frozen=True)
class PeerContender:
    """Images through `published`, their latents, unscaled modes, through `store_dtype`, and back; one by one.

    `compute`: how it computes.
    """

    title: str
    published: PublishedPeer
    store_dtype: StoreDtype
    compute: tuple[tuple[str, Any], ...]

    @property
    def multiple_px(self) -> int:
        """Pixels of a position of the latents along each side."""
        return self.published.downsampling

    def record(self) -> dict[str, Any]:
        """Return the class, the weights, how they compute, and what latents are stored in."""
        return {
            "model": {"class": self.published.class_name, "weights_sha256": self.published.sha256},
            "compute": dict(self.compute) | {"batch_size": 1, "diffusers": version("diffusers")},
            "store_dtype": self.store_dtype,
            "posterior": "mode",
        }

    def least_bytes(self, size: tuple[int, int], num_images: int) -> int:  # noqa: ARG002 # one at a time
        """Memory in bytes that decoding an image of `size` (H, W) cannot do without; 0 on a GPU."""
        return self.published.least_bytes_per_px * size[0] * size[1]

    def reconstruct(self, given: Given) -> list[Version | Failure]:
        """Return what comes back of each image.

        Raises `UnreadableImageError` for images that are too large for the memory.
        """
        images = given.padded(self.multiple_px)
        try:
            encoded = given.once(("latents", self.published.peer.network), lambda: self._encode(images))
            return [self._version(image, latents) for image, latents in zip(images, encoded, strict=True)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            height, width = images[0].record.geometry.bucket
            raise UnreadableImageError(f"not enough memory for {height}x{width} px") from error

    def _encode(self, images: Sequence[LoadedImage]) -> list[Tensor]:
        return [self.published.peer.encode(image.pixels[None])[0] for image in images]

    def _version(self, image: LoadedImage, latents: Tensor) -> Version | Failure:
        kept = keep_latents([image], latents[None], self.store_dtype)
        if kept.failures:
            return kept.failures[0]
        [pixels] = self.published.peer.decode(kept.latents)
        return Version(undo_padding(pixels.numpy(), image.record.geometry), kept.num_bytes[0])
