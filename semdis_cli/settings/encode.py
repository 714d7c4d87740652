"""Settings of `encode`."""

from dataclasses import dataclass, field

from semdis_cli.files.disk import count_cores
from semdis_cli.option import (
    Group,
    OptionError,
)
from semdis_cli.settings.columns import ColumnSettings
from semdis_cli.settings.inputs import FilterSettings, MaxErrors, Workers
from semdis_cli.settings.latents import PartSettings, ShardSettings
from semdis_cli.settings.processes import ProcessSettings
from semdis_cli.shares import Share


@dataclass(frozen=True)
class EncodeSettings(Group):
    """An encode, beyond its inputs, how they are read, and the model. Of these only `latents` decides their bytes.

    `share`: of the set, where several processes write it; None: all of it.
    """

    max_errors: MaxErrors = None
    filters: FilterSettings = FilterSettings()
    num_workers: Workers = field(default_factory=count_cores)
    processes: ProcessSettings = ProcessSettings()
    columns: ColumnSettings = ColumnSettings()
    latents: PartSettings = PartSettings()
    shards: ShardSettings = ShardSettings()
    share: Share | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filters.dedupe and self.latents.masks is not None:
            raise OptionError("--dedupe", "does not go with --masks: files with the same bytes may have different ones")
