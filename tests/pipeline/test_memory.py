"""What memory there is: of a machine, of a container, of a job in a group with a limit."""

from pathlib import Path

import pytest

from semdis_cli.pipeline.memory import available_memory

GIB = 1 << 30
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
