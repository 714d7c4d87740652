"""The worth of the times of files: ctimes vouch, archives' mtimes do not, and no ctimes are no ctimes."""

from dataclasses import replace
from pathlib import Path

import pytest

from semdis_cli.files.identity import Witness, all_vouch, settled
from semdis_cli.records import SourceImage, Stamp
from semdis_cli.sources.containers import container_at
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.tars import Tar
from semdis_cli.store.writing.seen import SeenFile

SECOND = 10**9
NOW = 1_800_000_000 * SECOND
LONG_AGO = 1_600_000_000 * SECOND
GOOD = SourceImage("a.bmp", ON_DISK, "a.bmp", 100, LONG_AGO, LONG_AGO + 7)
OTHER = SourceImage("b.bmp", ON_DISK, "b.bmp", 100, LONG_AGO + 99, LONG_AGO + 123)


def is_unchanged(
    image: SourceImage, *others: SourceImage, then: SourceImage | None = None, seen_ns: int | None = None
) -> bool:
    """Of an image that was seen as `then` (as it is now), among others."""
    witness = Witness.of([image, *others], NOW, seen_ns)
    return witness.is_unchanged(image, SeenFile.of(then or image))


@pytest.mark.parametrize("mtime_ns", [0, 1, 315_532_800 * SECOND, 499_162_500 * SECOND, NOW - SECOND, NOW + SECOND])
def test_a_time_that_tools_set_counts_only_where_the_ctime_vouches(mtime_ns: int) -> None:
    image = replace(GOOD, mtime_ns=mtime_ns)
    assert is_unchanged(image, OTHER)
    assert not is_unchanged(replace(image, ctime_ns=0), replace(OTHER, ctime_ns=0))
    assert not is_unchanged(replace(image, ctime_ns=5), replace(OTHER, ctime_ns=5)), "one ctime for all files"


def test_a_time_that_files_share_counts_only_where_the_ctime_vouches() -> None:
    same = replace(OTHER, mtime_ns=LONG_AGO)
    assert is_unchanged(GOOD, same)
    assert is_unchanged(replace(GOOD, ctime_ns=0), replace(OTHER, ctime_ns=0))
    assert not is_unchanged(replace(GOOD, ctime_ns=0), replace(same, ctime_ns=0))
    made_up = [replace(image, ctime_ns=image.mtime_ns) for image in (GOOD, same, replace(OTHER, mtime_ns=SECOND))]
    assert not is_unchanged(*made_up), "sshfs gives the mtime for the ctime"


def test_images_of_one_tar_share_its_times_and_are_one_file() -> None:
    tar = container_at(Path("x.tar"))
    assert isinstance(tar, Tar)
    members = [replace(GOOD, key=f"{i}", reader=tar, place=512 * i, ctime_ns=0) for i in range(3)]
    assert is_unchanged(*members)
    assert not is_unchanged(replace(members[0], mtime_ns=0), *members[1:])
    changed = replace(members[0], ctime_ns=LONG_AGO + 8)
    assert not is_unchanged(changed, then=replace(changed, ctime_ns=LONG_AGO + 9))


@pytest.mark.parametrize(
    "then",
    [
        replace(GOOD, num_bytes=101),
        replace(GOOD, mtime_ns=LONG_AGO - 1),
        replace(GOOD, mtime_ns=None),
        replace(GOOD, ctime_ns=LONG_AGO + 6),
        replace(GOOD, ctime_ns=LONG_AGO + 8),
    ],
)
def test_another_size_or_time_is_never_the_same_file(then: SourceImage) -> None:
    assert not is_unchanged(GOOD, OTHER, then=then)
    assert not is_unchanged(GOOD, replace(OTHER, ctime_ns=GOOD.ctime_ns), then=then), "though both changed at one time"


def test_records_without_ctimes_are_believed_of_files_that_are_older_than_they() -> None:
    then = replace(GOOD, ctime_ns=None)
    assert is_unchanged(GOOD, OTHER, then=then, seen_ns=NOW)
    assert not is_unchanged(GOOD, OTHER, then=then)
    assert not is_unchanged(GOOD, OTHER, then=then, seen_ns=LONG_AGO + SECOND)
    assert not is_unchanged(replace(GOOD, mtime_ns=0), OTHER, then=replace(then, mtime_ns=0), seen_ns=NOW)


def test_all_is_vouched_for_only_where_the_file_system_keeps_ctimes() -> None:
    assert all_vouch([GOOD, OTHER])
    assert all_vouch([GOOD])
    assert not all_vouch([GOOD, replace(OTHER, ctime_ns=GOOD.ctime_ns)])
    for ctime_ns in (None, 0, LONG_AGO + 99 - (LONG_AGO + 99) % SECOND):
        assert not all_vouch([GOOD, replace(OTHER, ctime_ns=ctime_ns, mtime_ns=ctime_ns)])


@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "is_settled"),
    [
        (LONG_AGO, LONG_AGO, True),
        (LONG_AGO, 0, True),
        (LONG_AGO, None, True),
        (LONG_AGO, NOW - SECOND, False),
        (LONG_AGO, NOW + SECOND, False),
        (NOW - SECOND, LONG_AGO, False),
        (NOW - SECOND, 0, False),
        (NOW + SECOND, LONG_AGO, True),
        (NOW + SECOND, 0, False),
        (None, LONG_AGO, False),
    ],
)
def test_a_time_is_noted_only_if_a_later_change_would_get_another(
    mtime_ns: int | None, ctime_ns: int | None, is_settled: bool
) -> None:
    stamp = Stamp(100, mtime_ns, ctime_ns)
    assert settled(stamp, NOW) == (stamp if is_settled else Stamp(100, None, ctime_ns))
