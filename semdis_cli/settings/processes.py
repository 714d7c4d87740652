"""Settings of the processes that share a run, on one machine or in a cluster."""

from dataclasses import dataclass
from typing import Annotated, Literal

from semdis_cli.option import MODEL, Group, Option, OptionError
from semdis_cli.settings.texts import parse_devices


@dataclass(frozen=True)
class ProcessSettings(Group):
    """Settings of how many processes share a run; results do not depend on them.

    `num_processes`: of a CPU, each with its part of the threads; None: one, and in a cluster as many as it has room
    for. `devices`: numbers of the CUDA devices, with a process each, or "all"; empty: as the device of the model says.
    `address`: of the cluster's head; None: the cluster that this machine belongs to. `gpus_per_worker` and
    `cpus_per_worker`: what each process of a cluster has to itself. `is_distant`: on GPUs; this machine has none.
    """

    num_processes: Annotated[
        int | None,
        Option(
            "Processes of this machine that share the work, and the --workers, of a CPU; of a Ray cluster, at most so "
            "many.  [default: 1; as many as the cluster has room for]",
            MODEL,
            flags="--processes",
            min=1,
            show_default=False,
        ),
    ] = None
    devices: Annotated[
        tuple[int, ...] | Literal["all"] | None,
        Option(
            "GPUs that share the work, a process each: all, or their numbers like 0,2.  [default: all of several, for "
            "50,000 images and more, unless --device says which]",
            MODEL,
            metavar="all|N,...",
            show_default=False,
            parse=parse_devices,
        ),
    ] = None

    engine: Annotated[
        Literal["local", "ray"],
        Option("Who does the work: this machine, or a Ray cluster that sees the same folders.", MODEL),
    ] = "local"
    address: Annotated[
        str | None,
        Option(
            "Head of the Ray cluster.  [default: of the cluster that this machine is part of]",
            MODEL,
            metavar="HOST:PORT",
            envvar="RAY_ADDRESS",
            show_default=False,
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        Option(
            "GPUs of each process of a Ray cluster; 0.5: two share one.  [default: 1, with --device cuda]",
            MODEL,
            within=(0.01, 1),
            show_default=False,
        ),
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        Option(
            "Cores, and threads, of each process of a Ray cluster.  [default: 1; beside a GPU its part of the node's]",
            MODEL,
            min=1,
            show_default=False,
        ),
    ] = None

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the devices of all processes, once it is known which GPUs there are; empty: one process does all."""
        assert self.devices != "all", "who has counted the devices says their numbers"
        if self.devices:
            return tuple(f"cuda:{number}" for number in self.devices)
        number = self.num_processes or 1
        return ("cpu",) * number if number > 1 else ()

    @property
    def is_given(self) -> bool:
        """Tell whether anything was asked for."""
        return self.is_in_cluster or self.devices is not None or self.num_processes not in {None, 1}

    is_distant: bool = False

    @property
    def flag(self) -> str:
        """The option that asks for it."""
        if self.is_in_cluster:
            return "--engine"
        return "--processes" if self.devices is None else "--devices"

    @property
    def is_in_cluster(self) -> bool:
        """Tell whether a cluster does the work."""
        return self.engine == "ray"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.devices is not None and self.num_processes not in {None, 1}:
            raise OptionError("--processes", "does not go with --devices, which has a process for each GPU")
        if self.is_in_cluster and self.devices is not None:
            raise OptionError("--devices", "does not go with --engine ray, which chooses the GPUs")
        if not self.is_in_cluster:
            given = {"--gpus-per-worker": self.gpus_per_worker, "--cpus-per-worker": self.cpus_per_worker}
            for flag in (flag for flag, value in given.items() if value is not None):
                raise OptionError(flag, "goes with --engine ray")
