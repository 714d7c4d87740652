"""The table of points and outcomes: kills and cuts the power at every point, and writes `docs/torture.md`.

Run as `python -m tests.torture.report`, or with `make torture`. Ends with status 1 if any outcome is wrong.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tests.torture.harness import PROJECT
from tests.torture.points import POINTS, Broken, Point, Situation, World, break_at, go_on
from tests.torture.power import cuts, disks_after, store

TABLE = PROJECT / "docs" / "torture.md"
HEAD = """# Kill anywhere: points and outcomes

`make torture` kills real runs of `semdis encode` (with `--part`, too) and `semdis attach` at the points below, cuts the
power there, and runs the same command again. It writes this table. How it works: `tests/torture/`.

- **killed**: the process gets SIGKILL right there; a write that is *half written* has half of its bytes in the file.
  *Left* is what was found then.
- **again**: the same command once more. *Same bytes*: every shard, `index.jsonl`, `items.table`, `SHA256SUMS`,
  `manifest.json` and `seen.jsonl` equal those of a run that nothing stopped, and no temporary file, lock or journal is
  left.
- **power cut**: of what was not synced by then, each file and each folder may have kept all, nothing or a part, torn
  writes and zeros included (`tests/torture/power.py`). The figure says of how many different disks that leaves how many
  the same command completes to the same bytes.

The images are six small ones, one of them cut short, and a file that is no image; a shard holds one, and a piece of an
index that lies in pieces two rows in place of a million. One worker writes
them one after the other. Runs of four, which write several at once, are killed before and amid changes as well
(`tests/torture/test_kill.py`).

Parts of a set, a new one and one that grows (`tests/torture/test_parts.py`, its slow tests included), end with the
bytes that one run writes. The last of two parts, which finishes the set, is taken up by the same part, by the other
one, by `semdis finish` or by a run of the whole. Of two and seven parts up to three are at work at once, the same one
twice by mistake, with `semdis finish`, runs of the whole and parts with other settings in between.

| what is tried | how many |
|---|---|
| the last part killed before and amid every change that it makes, and taken up in each of the four ways | 1012 |
| every disk that a power cut may leave of the last part, taken up in one of them | 864 |
| the last part on a disk that is full a block later each time, and taken up in one of them | until it is not |
| two and seven parts killed at random times, in any order; of ten one where files have no locks | 60 |
"""


@dataclass(frozen=True)
class Row:
    """A point, what a kill there left, what the same command made of it, and the same for power cuts."""

    point: Point
    killed: Broken
    cut: tuple[Broken, ...]

    @property
    def is_right(self) -> bool:
        return self.killed.is_right and all(broken.is_right for broken in self.cut)

    def to_line(self) -> str:
        num_right = sum(broken.is_right for broken in self.cut)
        return f"| {self.point.name} | {self.killed.left} | {outcome(self.killed)} | {num_right} of {len(self.cut)} |"


def outcome(broken: Broken) -> str:
    if broken.is_right:
        return "same bytes"
    return f"**exit {broken.code}; {'; '.join(broken.differences) or 'same bytes'}**"


def cut_at(situation: Situation, point: Point, folder: Path) -> Iterator[Broken]:
    """What comes of each disk that a power cut at `point` may leave."""
    stop = point.find(situation.steps)
    changes = [change for change in situation.unbroken[1] if change.number < stop.number + (stop.moment != "before")]
    *_, (number, disk) = disks_after(situation.start, changes)
    found = {frozenset(disk.after_a_cut(choice).items()) for choice in cuts(number).values()}
    for names in sorted(found, key=str):
        yield go_on(situation, store(dict(sorted(names)), folder))


def make_table(world: World, folder: Path) -> Iterator[Row]:
    for point in POINTS:
        situation = world.situation(point.situation)
        killed = break_at(situation, point.find(situation.steps), folder / "disk")
        yield Row(point, killed, tuple(cut_at(situation, point, folder / "disk")))


def to_markdown(rows: list[Row]) -> str:
    lines = [HEAD]
    for situation, group in groupby(rows, lambda row: row.point.situation):
        lines += [f"## {situation[0].upper()}{situation[1:]}", ""]
        lines += ["| killed | left | again | power cut: same bytes |", "|---|---|---|---|"]
        lines += [*(row.to_line() for row in group), ""]
    num_disks = sum(len(row.cut) for row in rows)
    num_right = sum(row.is_right for row in rows)
    lines += [
        f"{len(rows)} points and {num_disks} disks after a power cut; right at {num_right} of {len(rows)} points."
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="semdis-torture-") as folder:
        world = World(Path(folder) / "world")
        rows = []
        for row in make_table(world, Path(folder)):
            print(row.to_line(), flush=True)  # noqa: T201
            rows.append(row)
        world.close()
    TABLE.write_text(to_markdown(rows))
    wrong = [row for row in rows if not row.is_right]
    for row in wrong:
        print(f"WRONG: {row}", file=sys.stderr)  # noqa: T201
    print(f"{len(rows)} points, {len(wrong)} of them wrong; {TABLE}")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
