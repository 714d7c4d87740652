"""JPEG XL told by how a file begins, and whether its extra is there to decode it."""

import importlib.util
from functools import lru_cache

from semdis_cli.errors import PassingReadError

JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # bare; in its container


def is_jxl(start: bytes) -> bool:
    """Tell whether a file begins as JPEG XL does, bare or in its container."""
    return start.startswith(JXL_STARTS)


@lru_cache(maxsize=1)
def has_jxl() -> bool:
    """Tell whether the extra that decodes it is installed."""
    return importlib.util.find_spec("pillow_jxl") is not None


def check_jxl(start: bytes) -> None:
    """Raise `PassingReadError` for a JPEG XL file, by how it begins, where it cannot be decoded."""
    if is_jxl(start) and not has_jxl():
        raise PassingReadError("JPEG XL is read with an extra: pip install 'semdis[jxl]'")
