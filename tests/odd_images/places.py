"""What stands where a file is expected: pipes, devices, links to nowhere, files that may not be read."""

import os
import stat
from pathlib import Path

from tests.image_bytes import png
from tests.odd_images.picture import FOUR, PICTURE, OddImage


def build_in_folder(folder: Path) -> list[OddImage]:
    """What a scan of `folder` is to cope with, in a folder `places` below it."""
    places = folder / "places"
    places.mkdir(parents=True)
    (places / "folder.jpg").mkdir()
    os.mkfifo(places / "pipe.jpg")
    os.mknod(places / "socket.jpg", stat.S_IFSOCK | 0o600)
    (places / "zero.jpg").symlink_to("/dev/zero")
    (places / "gone.jpg").symlink_to("nowhere.jpg")
    (places / "circle.jpg").symlink_to("circle.jpg")
    (places / "up").symlink_to("..")
    (places / "target.png").write_bytes(png(PICTURE))
    (places / "link.png").symlink_to("target.png")
    (places / "denied.png").write_bytes(png(PICTURE))
    (places / "denied.png").chmod(0)
    (places / "closed").mkdir()
    (places / "closed").chmod(0)
    return [
        _nothing("folder.jpg", "folder named like an image"),
        _nothing("pipe.jpg", "pipe (FIFO)"),
        _nothing("socket.jpg", "socket"),
        _nothing("zero.jpg", "link to a device"),
        _nothing("up", "link to the folder above"),
        _failure("gone.jpg", "link to nowhere", "No such file or directory"),
        _failure("circle.jpg", "link to itself", "Too many levels of symbolic links"),
        OddImage("places/target.png", "file that a link leads to", colours=FOUR),
        OddImage("places/link.png", "link to a file", colours=FOUR),
        OddImage("places/denied.png", "file that may not be read", size=None, reason="Permission denied"),
        _failure("closed", "folder that may not be searched", "cannot be searched (Permission denied)"),
    ]


def build_named(folder: Path) -> list[OddImage]:
    """The same in `folder`, each to be named outright: what a user names is in the index, whatever it is."""
    folder.mkdir()
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    os.mknod(folder / "socket.jpg", stat.S_IFSOCK | 0o600)
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "file.png").write_bytes(png(PICTURE))
    (folder / "denied.png").write_bytes(png(PICTURE))
    (folder / "denied.png").chmod(0)
    name = folder.name
    return [
        _named(f"{name}/folder.jpg", "folder", "is a folder"),
        _named(f"{name}/pipe.jpg", "pipe (FIFO)", "is not a regular file"),
        _named(f"{name}/socket.jpg", "socket", "is not a regular file"),
        _named(f"{name}/zero.jpg", "link to a device", "is not a regular file"),
        _named(f"{name}/circle.jpg", "link to itself", "Too many levels of symbolic links"),
        _named(f"{name}/gone.jpg", "nothing there", "No such file or directory"),
        _named(f"{name}/file.png/below.png", "file below a file", "Not a directory"),
        _named(f"{name}/{'x' * 300}.png", "name of 304 bytes", "File name too long"),
        _named(f"{name}/denied.png", "file that may not be read", "Permission denied"),
        OddImage(f"{name}/file.png", "file", colours=FOUR),
    ]


def _nothing(name: str, what: str) -> OddImage:
    return OddImage(f"places/{name}", what, size=None, scan="nothing")


def _failure(name: str, what: str, reason: str) -> OddImage:
    return OddImage(f"places/{name}", what, size=None, reason=reason, scan="failure")


def _named(key: str, what: str, reason: str) -> OddImage:
    return OddImage(key, what, size=None, reason=reason, scan="failure")
