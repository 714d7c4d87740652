"""A Ray cluster of several nodes on this machine, of real processes, each of which can be killed."""

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STORE_BYTES = 100_000_000  # the least that Ray takes is 75 MB
_BEGIN = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; sys.exit(main())"
_BEGIN_AS = "import ray; ray.__version__ = {version!r}; " + _BEGIN
_START_S = 90.0


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])


class Node:
    """A node: `ray start --block`, with its raylet and whatever that starts."""

    def __init__(
        self,
        arguments: list[str],
        env: dict[str, str],
        log: Path,
        *,
        version: str | None = None,
        hiding: Path | None = None,
    ) -> None:
        begin = _BEGIN if version is None else _BEGIN_AS.format(version=version)
        hide: list[str] = []
        if hiding is not None:
            (log.parent / "empty").mkdir(exist_ok=True)
            mount = ["mount", "--bind", str(log.parent / "empty"), str(hiding)]
            hide = ["unshare", "--mount", "sh", "-c", f'{shlex.join(mount)} && exec "$@"', "sh"]
        common = ["--block", "--disable-usage-stats", "--object-store-memory", str(STORE_BYTES)]
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*hide, sys.executable, "-c", begin, "start", *common, *arguments],
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, words: str) -> None:
        """Wait until it has said so."""
        deadline = time.monotonic() + _START_S
        while words not in self.log.read_text(errors="replace"):
            has_time = self.process.poll() is None and time.monotonic() < deadline
            assert has_time, self.log.read_text(errors="replace")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it at once, with all that it has started: as when a machine loses its power."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let its actors stand still."""
        pids = self.workers()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def workers(self) -> list[int]:
        """Return the processes that have actors."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                command = (path / "cmdline").read_bytes()
                session = int((path / "stat").read_text().rpartition(")")[2].split()[3])
                if session == self.process.pid and command.startswith(b"ray::RayActor"):
                    found.append(int(path.name))
        return found


class RayCluster:
    """A cluster: a head, and nodes that join and leave. Nobody else can use it: it has a token."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.env.pop("RAY_ADDRESS", None)
        self.nodes: list[Node] = []

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return f"127.0.0.1:{self.port}"

    def begin(self, num_cpus: int = 1, *options: str, version: str | None = None) -> Node:
        """Begin the head."""
        where = ["--head", "--port", str(self.port), "--temp-dir", str(self._folder / "ray")]
        return self._start([*where, "--include-dashboard=false", *options], num_cpus, version)

    def join(self, num_cpus: int = 1, *, hiding: Path | None = None, packages: dict[str, str] | None = None) -> Node:
        """Have another node join. `hiding`: a folder that is empty there; `packages`: versions it has of some."""
        return self._start(["--address", self.address], num_cpus, hiding=hiding, packages=packages)

    def _start(
        self,
        arguments: list[str],
        num_cpus: int,
        version: str | None = None,
        hiding: Path | None = None,
        packages: dict[str, str] | None = None,
    ) -> Node:
        log = self._folder / f"node-{len(self.nodes)}.txt"
        env = self.env if packages is None else self.env | {"PYTHONPATH": str(self._pretend(packages))}
        node = Node([*arguments, "--num-cpus", str(num_cpus)], env, log, version=version, hiding=hiding)
        self.nodes.append(node)
        node.wait_until("This command will now block")
        return node

    def _pretend(self, packages: dict[str, str]) -> Path:
        """Return a folder that says of packages that they have other versions."""
        folder = self._folder / "pretended"
        for name, version in packages.items():
            (folder / f"{name}-{version}.dist-info").mkdir(parents=True)
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(text)
        return folder

    def end(self) -> None:
        """Kill all of it."""
        for node in self.nodes:
            node.kill()


def cluster_in(folder: Path) -> Iterator[RayCluster]:
    """Give a cluster that ends with a test; nothing is begun."""
    cluster = RayCluster(folder)
    try:
        yield cluster
    finally:
        cluster.end()
