"""Stretches of files as files of their own."""

import io


class Stretch(io.RawIOBase):
    """Some bytes of a file as a file, read from a position of its own, `_position` of `_num_bytes`."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._num_bytes, self._position = num_bytes, 0

    @property
    def _num_left(self) -> int:
        return self._num_bytes - self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the stretch's beginning."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        if base + offset < 0:
            raise ValueError("a place before the beginning")
        self._position = base + offset
        return self._position

    def readable(self) -> bool:
        """Return True: it is for reading."""
        return True

    def seekable(self) -> bool:
        """Return True: `seek` goes anywhere."""
        return True
