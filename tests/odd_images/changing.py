"""What may happen to a file between the moment when a run is planned and the moment when it is read."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.image_bytes import png
from tests.odd_images.picture import COLOURS, PICTURE, OddImage, unreadable


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_link_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _lose_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _change_size(path: Path) -> None:
    path.write_bytes(png(PICTURE[:16, :16]))


CHANGES: list[tuple[OddImage, Callable[[Path], None]]] = [
    (unreadable("changing/deleted.png", "deleted", "No such file or directory"), Path.unlink),
    (unreadable("changing/device.png", "replaced by a link to a device", "not a regular file"), _become_link_to_device),
    (unreadable("changing/folder.png", "replaced by a folder", "not a regular file"), _become_folder),
    (unreadable("changing/pipe.png", "replaced by a pipe", "not a regular file"), _become_pipe),
    (unreadable("changing/shorter.png", "cut off", "truncated"), _lose_half),
    (unreadable("changing/smaller.png", "replaced by an image of another size", "changed"), _change_size),
    (OddImage("changing/untouched.png", "left alone", colours=(((0, 0), COLOURS[0]),)), lambda _: None),
]
