"""Memory that is to be had: of a machine, of a container, of a job in a group with a limit."""

import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from semdis_cli.errors import PassingReadError
from semdis_cli.memory import Room, available_memory, room_for_images

MIB, GIB = 1 << 20, 1 << 30
PROGRAM = 320 * MIB
MACHINE = {"proc/meminfo": f"MemTotal: {300 << 20} kB\nMemAvailable:   {256 << 20} kB\nBuffers: 1 kB\n"}
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


def group(folder: str, limit: str, used: int, cached: int) -> dict[str, str]:
    """The files of a group of version 2."""
    stat = f"anon 5\nfile 7\ninactive_file {cached}\nactive_file 3\n"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def group_v1(folder: str, limit: int, used: int, cached: int) -> dict[str, str]:
    """The files of a group of version 1."""
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 4 * GIB, id="nothing is known"),
        pytest.param({"proc/meminfo": "MemTotal: \xe4"}, 4 * GIB, id="nothing that can be read"),
        pytest.param(MACHINE, 256 * GIB, id="a machine"),
        pytest.param(
            {**MACHINE, "proc/self/cgroup": "0::/\n", **group(V2, str(16 * GIB), 3 * GIB, GIB)},
            14 * GIB,
            id="a container",
        ),
        pytest.param(
            {**MACHINE, "proc/self/cgroup": "0::/\n", **group(V2, str(16 * GIB), 17 * GIB, 0)}, 0, id="a full one"
        ),
        pytest.param(
            {**MACHINE, "proc/self/cgroup": "0::/user.slice/a\n", **group(f"{V2}/user.slice/a", "max", GIB, 0)},
            256 * GIB,
            id="a group without a limit",
        ),
        pytest.param(
            {
                **MACHINE,
                "proc/self/cgroup": "0::/job/step\n",
                **group(f"{V2}/job/step", "max", GIB, 0),
                **group(f"{V2}/job", str(8 * GIB), 2 * GIB, 0),
            },
            6 * GIB,
            id="a job whose outer group has a limit",
        ),
        pytest.param(
            {**MACHINE, "proc/self/cgroup": "0::/../../etc\n", **group("sys/etc", "1", 0, 0)},
            256 * GIB,
            id="a group outside of what is seen",
        ),
        pytest.param(
            {
                **MACHINE,
                "proc/self/cgroup": "12:cpu,cpuacct:/x\n4:memory:/docker/1234\n",
                **group_v1(V1, 10 * GIB, 3 * GIB, GIB),
            },
            8 * GIB,
            id="a container of version 1, which sees its group as the mount",
        ),
        pytest.param(
            {
                **MACHINE,
                "proc/self/cgroup": "3:hugetlb,memory:/slurm/job\n0::/\n",
                **group_v1(f"{V1}/slurm/job", 5 * GIB, GIB, 0),
                **group_v1(V1, (1 << 63) - 4096, 9 * GIB, 0),
            },
            4 * GIB,
            id="a job of version 1",
        ),
    ],
)
def test_the_least_of_what_the_machine_and_every_group_leave_counts(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="latin-1")
    assert available_memory(tmp_path) == expected


def test_this_machine_has_some_memory() -> None:
    assert 64 << 20 < available_memory() < 1 << 50


# ---- What an image may take at most ----


def machine(memory_gib: int, swap_gib: int = 0) -> dict[str, str]:
    return {"proc/meminfo": f"MemTotal: {memory_gib << 20} kB\nMemAvailable: 5 kB\nSwapTotal: {swap_gib << 20} kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(machine(16), 16 * GIB - PROGRAM, id="a machine, whatever is running on it"),
        pytest.param(machine(16, 4), 20 * GIB - PROGRAM, id="with swap"),
        pytest.param(
            {**machine(16, 4), "proc/self/cgroup": "0::/a\n", **group(f"{V2}/a", str(GIB), GIB, 0)},
            5 * GIB - PROGRAM,
            id="a group that may swap",
        ),
        pytest.param(
            {
                **machine(16, 4),
                "proc/self/cgroup": "0::/a\n",
                **group(f"{V2}/a", str(GIB), GIB, 0),
                f"{V2}/a/memory.swap.max": "0\n",
            },
            GIB - PROGRAM,
            id="a group that may not",
        ),
        pytest.param(
            {
                **machine(16, 4),
                "proc/self/cgroup": "4:memory:/a\n",
                **group_v1(f"{V1}/a", GIB, GIB, 0),
                f"{V1}/a/memory.memsw.limit_in_bytes": f"{2 * GIB}\n",
            },
            2 * GIB - PROGRAM,
            id="a group of version 1",
        ),
        pytest.param(
            {**machine(16), "proc/self/cgroup": "0::/a\n", **group(f"{V2}/a", str(1 << 20), 0, 0)}, 0, id="next to none"
        ),
        pytest.param(
            {
                **machine(16),
                "proc/self/limits": "Max data size             unlimited\nMax address space         3221225472    5\n",
                "proc/self/status": "VmSize:\t 1048576 kB\n",
            },
            2 * GIB,
            id="an address space with a limit",
        ),
    ],
)
def test_images_may_take_what_the_limits_leave(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert room_for_images(tmp_path).total_bytes == expected


def test_where_nothing_is_known_nothing_is_refused(tmp_path: Path) -> None:
    assert room_for_images(tmp_path).refusal(1 << 50, "to read", "") is None


def test_what_is_large_waits_for_others_and_what_is_too_large_is_refused() -> None:
    room, at_once, most = Room(100 * MIB), 0, 0
    counting = threading.Lock()

    def take(num_bytes: int) -> None:
        nonlocal at_once, most
        with room.taking(num_bytes):
            with counting:
                at_once += num_bytes
                most = max(most, at_once)
            time.sleep(0.002)
            with counting:
                at_once -= num_bytes

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, [40 * MIB, 60 * MIB, 100 * MIB, 33 * MIB] * 6))
    assert 40 * MIB <= most <= 100 * MIB
    assert room.refusal(100 * MIB, "to encode", "do this") is None
    assert (
        room.refusal(205 * MIB, "to encode", "do this")
        == "not enough memory: needs about 205 MiB to encode, and 100 MiB are there; do this"
    )
    assert Room(0).refusal(MIB, "to encode", "") is None
    with (
        pytest.raises(PassingReadError, match=r"needs about 205 MiB to read.*--max-image-pixels"),
        room.reading(205 * MIB),
    ):
        pass


PICTURES = """
import resource, sys
import numpy as np
from semdis_cli.memory import keep_freed_blocks

if sys.argv[1] == "kept":
    keep_freed_blocks()
for _ in range(40):
    calls = [np.zeros((256, 256, 3), np.uint8) + np.uint8(1) for _ in range(64)]
    calls.clear()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    calls = [np.zeros((256, 256, 3), np.uint8) + np.uint8(1) for _ in range(64)]
    calls.clear()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_pages_of_pictures_are_taken_again_and_not_asked_for_anew() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}

    def faults(how: str, **more: str) -> int:
        command = [sys.executable, "-c", PICTURES, how]
        return int(subprocess.run(command, env=environment | more, check=True, capture_output=True).stdout)

    kept, given_back = faults("kept"), faults("as it is")
    assert kept < given_back / 4
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="0") > 4 * kept  # who sets it by hand has the say
