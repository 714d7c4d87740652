"""Settings of the processes that share a run on one machine."""

from dataclasses import dataclass
from typing import Annotated, Literal

from semdis_cli.option import MODEL, Group, Option, OptionError
from semdis_cli.settings.texts import parse_devices


@dataclass(frozen=True)
class ProcessSettings(Group):
    """Settings of how many processes share a run; results do not depend on them.

    `num_processes`: of a CPU, each with its part of the threads. `devices`: numbers of the CUDA devices, with a process
    each, or "all"; empty: as the device of the model says.
    """

    num_processes: Annotated[
        int,
        Option(
            "Processes of this machine that share the work, and the --workers, of a CPU.",
            MODEL,
            flags="--processes",
            min=1,
        ),
    ] = 1
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

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the devices of all processes, once it is known which GPUs there are; empty: one process does all."""
        assert self.devices != "all", "who has counted the devices says their numbers"
        if self.devices:
            return tuple(f"cuda:{number}" for number in self.devices)
        return ("cpu",) * self.num_processes if self.num_processes > 1 else ()

    @property
    def is_given(self) -> bool:
        """Tell whether anything was asked for."""
        return self.devices is not None or self.num_processes > 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.devices is not None and self.num_processes > 1:
            raise OptionError("--processes", "does not go with --devices, which has a process for each GPU")
