"""JPEGs decoded on a CUDA device, by nvJPEG through torchvision's operator: other pixels than libjpeg's.

nvJPEG makes colours as large as brightness in another way. Its engine does not heed the stream that it is given, and
writes into memory that the kernels before it still read (torchvision 0.28, TorchCodec 0.16): so it gets a stream of its
own, of which nothing is under way while it decodes, and one call of it is at an end before the next begins.
"""

import importlib.metadata
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.images.formats.jpeg.decoder import RGB, load_operators
from semdis_cli.images.formats.jpeg.header import PlainJpeg
from semdis_cli.tensors import is_out_of_memory, wait_for_device

_LEAST_DB = 30.0  # to the pixels of a CPU, of smooth pictures
# nvJPEG's BAD_JPEG, JPEG_NOT_SUPPORTED, IMPLEMENTATION_NOT_SUPPORTED and INCOMPLETE_BITSTREAM; the others are for want
# of memory, or of the device.
_REFUSALS = frozenset({3, 4, 9, 10})
_OPTION = "--decode-on cuda"
_END_OF_IMAGE = b"\xff\xd9"
_PROBE_SIDES = (48, 64), (75, 50)
_nvjpeg = Lock()  # a process has one decoder

Operator = Callable[[Sequence[Tensor], int, torch.device], Sequence[Tensor]]


def device_decoder() -> str:
    """Name what decodes JPEGs on a device, with versions: for records, as pixels may depend on it."""
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"{_OPTION} needs torchvision, built for CUDA: pip install torchvision") from None
    return f"nvjpeg of cuda {torch.version.cuda}, torchvision {version}"


def can_wait(plain: PlainJpeg, data: bytes) -> bool:
    """Tell whether a JPEG is left to a device: in colour, without a profile, and to its end.

    One that breaks off would be filled up in some way: on a CPU it is found out.
    """
    return plain.is_simple and plain.is_coloured and not plain.may_have_profile and data.endswith(_END_OF_IMAGE)


class DeviceJpegs:
    """Decodes JPEGs on `device`, for one thread at a time."""

    def __init__(self, device: torch.device, operator: Operator) -> None:
        self.device = device
        self._operator = operator
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the device to decode on, and a stream of it that nobody else uses; at the end all is done.

        Memory that is freed in here is free for what is decoded in here alone.
        """
        with _nvjpeg:
            if self._stream is None:
                yield
                return
            with torch.cuda.stream(self._stream):
                try:
                    yield
                finally:
                    wait_for_device(self.device)

    def decode(self, files: Sequence[bytes]) -> list[Tensor | None]:
        """Decode JPEGs that `can_wait` lets through: uint8 [3,H,W] as stored, on the device; None for what it refuses.

        To be called within `alone`. Raises `DeviceTroubleError` for what is no fault of a file, and torch's error where
        memory runs out.
        """
        tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        try:
            return [*self._decoded(tensors)]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
        return [self._unless_refused(tensor) for tensor in tensors]  # one of them has cost the others theirs

    def _unless_refused(self, tensor: Tensor) -> Tensor | None:
        try:
            return self._decoded([tensor])[0]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            if _is_refusal(error):
                return None
            raise DeviceTroubleError(_first_line(error)) from error

    def _decoded(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        wait_for_device(self.device)
        try:
            pixels = self._operator(tensors, RGB, self.device)
        except RuntimeError:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # it may have begun to write, in a stream that it does not wait for
            raise
        wait_for_device(self.device)
        return pixels

    def check(self) -> None:
        """Raise `UsageError` unless small pictures, of all kinds that are decoded here, come back as from a CPU."""
        probes = [_probe(side, subsampling) for side in _PROBE_SIDES for subsampling in (0, 1, 2)]
        try:
            with self.alone():
                decoded = self.decode([data for data, _ in probes])
        except RuntimeError as error:
            raise _cannot(_first_line(error)) from error
        for found, (_, expected) in zip(decoded, probes, strict=True):
            if found is None or found.shape != expected.shape:
                raise _cannot("it refuses plain JPEGs")
            if (closeness := _psnr_db(found.cpu().numpy(), expected)) < _LEAST_DB:
                raise _cannot(f"a picture comes back as another one, {closeness:.1f} dB to that of the CPU")


class DeviceTroubleError(RuntimeError):
    """The device could not decode a JPEG now, and perhaps can later: it is no fault of the file."""


@lru_cache
def device_jpegs(device: torch.device) -> DeviceJpegs:
    """Return what decodes on `device`, tried out. Raises `UsageError` where nothing does."""
    torch.backends.cuda.matmul.allow_tf32 = False  # some containers allow it: 10 bits for the weights of resizing
    jpegs = DeviceJpegs(device, _find_operator())
    jpegs.check()
    return jpegs


def _find_operator() -> Operator:
    try:
        load_operators()
        operator: Operator = torch.ops.image.decode_jpegs_cuda.default
    except (ImportError, AttributeError, OSError) as error:
        raise _cannot(_first_line(error)) from error
    return operator


def _is_refusal(error: RuntimeError) -> bool:
    """Tell whether nvJPEG cannot decode a file at all; the operator says so by its status, at the end of a line."""
    status = re.search(r": (\d+)$", _first_line(error))
    return "chroma subsampling" in str(error) or (status is not None and int(status[1]) in _REFUSALS)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _cannot(reason: str) -> UsageError:
    return UsageError(f"torchvision cannot decode on this device ({reason:.200}); leave {_OPTION} out")


def _probe(side: tuple[int, int], subsampling: int) -> tuple[bytes, np.ndarray]:
    """Return the JPEG of a smooth picture, and its pixels [3,H,W] as Pillow has them."""
    y, x = np.mgrid[0 : side[0], 0 : side[1]]
    picture = np.stack([4 * y, 3 * x, 2 * (x + y)], axis=2).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=subsampling)
    return file.getvalue(), np.asarray(Image.open(file)).transpose(2, 0, 1)


def _psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
    error = np.square(image.astype(float) - reference).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))
