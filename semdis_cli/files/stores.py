"""Stores that fsspec opens, and what they tell of their files. The only place that knows fsspec.

fsspec, and the package of the store, are loaded with the first URL. Whatever a package raises becomes an `OSError`
here, with the one line of it that matters and without secrets.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from semdis_cli.errors import MissingExtraError, SemdisError, UsageError

_USER = re.compile(r"(?<=://)[^/@\s]+@")
_WEB_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\")]*", re.IGNORECASE)
_QUERY = re.compile(r"(?<=[^\s?'\"])\?[^\s'\")]*=[^\s'\")]*")  # not every ? in a name begins one
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
}
SCHEMES = frozenset({*_PACKAGES, "ftp", "memory"})
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "Last-Modified", "created")
_TAGS = ("ETag", "etag", "generation", "md5Hash", "Content-MD5", "content_md5", "blob_id", "VersionId", "version_id")
_PAGE_FILES = 1000  # the most that S3 gives
_TAG_BITS = 60  # as a time that is long past, so that it is never taken for one of just now
_ERRNOS = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    TimeoutError: errno.ETIMEDOUT,
}
_SAY_ALL = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR})  # the message has but the path


class FarFile(NamedTuple):
    """File of a store, as a listing tells of it. `path`: within the store.

    `mtime_ns`: when it was written, nanoseconds since 1970; `tag_ns`: a number that follows from its ETag or version,
    and takes the place of a time of change. None where the store does not say.
    """

    path: str
    num_bytes: int
    mtime_ns: int | None
    tag_ns: int | None


def without_secrets(text: str) -> str:
    """Leave out of the URLs in a text what may be secret: what is before `@`, and queries."""
    return _QUERY.sub("", _WEB_QUERY.sub(r"\1", _USER.sub("", text)))


@lru_cache(maxsize=64)
def connect(text: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and the path in it. Raises `UsageError`, `MissingExtraError`."""
    url, scheme = without_secrets(text), text.partition("://")[0].lower()
    package = _PACKAGES.get(scheme)
    try:
        import fsspec
    except ImportError as error:
        more = f" {package}" if package else ""
        raise MissingExtraError(f"URLs need fsspec: pip install 'semdis[remote]'{more}", place=url) from error
    try:
        store, path = fsspec.url_to_fs(text)
    except ImportError as error:
        install = f"pip install {package}" if package else _line(error)
        raise MissingExtraError(f"{scheme}:// needs {package or 'another package'}: {install}", place=url) from error
    except ValueError as error:
        raise UsageError(f"cannot be opened ({_line(error)})", place=url) from error
    return store, str(path)


@contextmanager
def asking(text: str) -> Iterator[Any]:
    """Give the store of a URL; whatever it raises inside is an `OSError` outside."""
    try:
        yield connect(text)[0]
    except SemdisError:
        raise
    except Exception as error:
        raise _as_os_error(error) from error


_Page = list[tuple[str, dict[str, Any]]]  # paths in the store, and what it says of them


def pages_below(text: str, path: str) -> Iterator[_Page]:
    """Yield the files below a path in the store of a URL, a page of the listing after the other. Raises `OSError`."""
    with asking(text) as store:
        is_paged = hasattr(store, "call_s3") and not store.version_aware
    yield from _pages_of_s3(text, path) if is_paged else _one_page(text, path)


def _pages_of_s3(text: str, path: str) -> Iterator[_Page]:
    """As s3fs lists a folder, but that keeps some 2 kB of each object until it has all."""
    with asking(text) as store:
        bucket, key, _ = store.split_path(path)
    asked = {"Bucket": bucket, "Prefix": key and f"{key.rstrip('/')}/", "MaxKeys": _PAGE_FILES}
    while True:
        try:
            with asking(text) as store:
                page = store.call_s3("list_objects_v2", **asked, **store.req_kw)
        except FileNotFoundError:
            return
        named = ((f"{bucket}/{each['Key']}", each | {"size": each["Size"]}) for each in page.get("Contents", ()))
        yield [(name, info) for name, info in named if _is_file_name(name)]
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _one_page(text: str, path: str) -> Iterator[_Page]:
    with asking(text) as store:
        try:
            found: dict[str, dict[str, Any]] = store.find(path, detail=True)
        except FileNotFoundError:
            return
        store.invalidate_cache()  # it would keep all of them
    for name in list(found):
        info = found.pop(name)  # a million take more than a gigabyte
        if info["type"] == "file" and _is_file_name(name):
            yield [(name, info)]


def _is_file_name(name: str) -> bool:
    return not name.endswith("/")  # as folders do that consoles make


def _as_os_error(error: BaseException) -> OSError:
    cause = error.__cause__
    is_other = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    if cause is not None and (is_other or getattr(cause, "status", 404) != 404):
        return _as_os_error(cause)  # fsspec calls a web page missing whatever the server said
    number = next((number for kind, number in _ERRNOS.items() if isinstance(error, kind)), errno.EIO)
    return OSError(number, os.strerror(number) if number in _SAY_ALL else _line(error))


def _line(error: BaseException) -> str:
    """Return what an error says, in a line and without secrets."""
    text = without_secrets(" ".join(str(getattr(error, "strerror", None) or error).split()))
    return f"{text:.200}" or type(error).__name__


def far_file(info: dict[str, Any], path: str) -> FarFile:
    """Return what fsspec tells of the file at `path` in a store. Raises `OSError` if its size is not known."""
    if info.get("size") is None:
        raise OSError(errno.EIO, "the server does not say how large it is")
    time = next((info[name] for name in _TIMES if info.get(name)), None)
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), None)
    is_strong = tag is not None and not tag.startswith("W/")
    return FarFile(path, int(info["size"]), _nanoseconds(time), _number(tag) if tag and is_strong else None)


def _nanoseconds(time: object) -> int | None:
    """Return a time as stores give it in nanoseconds since 1970; None for what is none."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time) if time[:4].isdigit() else parsedate_to_datetime(time)
        except ValueError:
            return None
    if isinstance(time, datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return round(time * 1e6) * 1000 if isinstance(time, int | float) else None


def _number(tag: str) -> int:
    """Return an odd number for an ETag: no two of them get the same, and none is in whole seconds."""
    return int.from_bytes(sha256(tag.encode()).digest()[:8], "big") >> (64 - _TAG_BITS) | 1
