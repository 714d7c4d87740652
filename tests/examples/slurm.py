"""A cluster of SLURM on this machine, of two nodes that are both here, with a folder and ports of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
_PLACES = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/sbin"  # daemons are not on everybody's path
_PATIENCE_S = 60.0

_CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PropagateResourceLimits=NONE
KillWait=5
MpiDefault=none
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=4
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=4
PartitionName=main Nodes=ALL Default=YES State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs."""

    configuration: Path

    def call(self, *command: str, folder: Path, more: dict[str, str] | None = None) -> str:
        """Run one of SLURM's commands in a folder, and return what it says. Raises `CalledProcessError`."""
        environment = os.environ | (more or {}) | {"SLURM_CONF": str(self.configuration)}
        return subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()


def missing() -> list[str]:
    """Return what a cluster needs and this machine has not."""
    return [name for name in NEEDED if shutil.which(name, path=_PLACES) is None]


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """Start a cluster whose files are in `folder`, and stop it."""
    with ExitStack() as stack:
        _start_munge(folder / "munge", stack)
        (folder / "state").mkdir()
        configuration = folder / "slurm.conf"
        ports = dict(zip(("controller", "first", "second"), _free_ports(3), strict=True))
        text = _CONFIGURATION.format(folder=folder, user=getpass.getuser(), host=socket.gethostname(), **ports)
        configuration.write_text(text)
        for name, *options in (("slurmctld",), ("slurmd", "-N", "n0"), ("slurmd", "-N", "n1")):
            _start([name, "-D", "-f", str(configuration), *options], folder / f"{name}{''.join(options)}.log", stack)
        slurm = Slurm(configuration)
        _wait_for_nodes(slurm, folder)
        yield slurm


def _start_munge(folder: Path, stack: ExitStack) -> None:
    """Start the daemon that says who is who, for this cluster alone."""
    folder.mkdir(mode=0o711)
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
    command = ["munged", "--foreground", "--force", f"--socket={folder / 'socket'}", *files]
    _start(command, folder / "output", stack)


def _start(command: list[str], log: Path, stack: ExitStack) -> None:
    """Start a daemon that is ended with the stack."""
    program = shutil.which(command[0], path=_PLACES)
    assert program is not None
    with log.open("wb") as output:
        daemon = subprocess.Popen([program, *command[1:]], stdout=output, stderr=subprocess.STDOUT)
    stack.callback(daemon.wait)
    stack.callback(daemon.terminate)


def _wait_for_nodes(slurm: Slurm, folder: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        try:
            if slurm.call("sinfo", "--noheader", "--format=%D %t", folder=folder) == "2 idle":
                return
        except subprocess.CalledProcessError:
            sys.stderr.write("no controller yet\n")
        time.sleep(0.2)
    logs = "".join(path.read_text() for path in folder.glob("*.log"))
    raise AssertionError(f"the cluster did not come up\n{logs}")


def _free_ports(number: int) -> list[int]:
    """Return ports that nobody has, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
