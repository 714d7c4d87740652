"""Which GPUs and processes share a run: as options say, and by itself."""

from typing import Literal

import pytest

from semdis_cli.cli.setup import spread, spread_if_it_pays
from semdis_cli.model import devices
from semdis_cli.option import OptionError
from semdis_cli.settings import DecodeSettings, EncodeSettings, ProcessSettings, TokenizerSettings
from semdis_cli.settings.texts import parse_devices

MANY, FEW = 50_000, 49_999


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 4)


def places(
    device: str, processes: ProcessSettings, num_images: int = FEW, *, is_piped: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Return the device of the process that plans, and those of the ones that work if it is not that alone."""
    how, settings = TokenizerSettings(device=device), EncodeSettings(processes=processes)
    how, settings = spread_if_it_pays(*spread(how, settings, is_piped=is_piped), num_images)
    return how.device, settings.processes.places


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("numbers", "expected"),
    [("all", ("cuda:0", "cuda:1", "cuda:2", "cuda:3")), ((1, 3), ("cuda:1", "cuda:3")), ((2,), ("cuda:2",))],
)
def test_gpus_that_are_named_have_a_process_each(
    device: str, numbers: tuple[int, ...] | Literal["all"], expected: tuple[str, ...]
) -> None:
    assert places(device, ProcessSettings(devices=numbers)) == (expected[0], expected)


def test_several_gpus_share_a_large_run_by_themselves() -> None:
    nothing = ProcessSettings()
    assert places("auto", nothing, MANY)[1] == tuple(f"cuda:{number}" for number in range(4))
    assert places("auto", nothing, FEW) == ("auto", ())
    assert places("cuda:1", nothing, MANY) == ("cuda:1", ())
    assert places("cpu", nothing, MANY) == ("cpu", ())


def test_one_gpu_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 1)
    assert places("auto", ProcessSettings(), MANY) == ("auto", ())
    assert places("auto", ProcessSettings(devices="all"), MANY) == ("cuda:0", ("cuda:0",))


def test_processes_of_a_cpu_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert places("cpu", ProcessSettings(num_processes=3), MANY) == ("cpu", ("cpu",) * 3)
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    assert places("auto", ProcessSettings(num_processes=3), MANY) == ("auto", ("cpu",) * 3)


@pytest.mark.parametrize(
    ("device", "processes", "match"),
    [
        ("auto", ProcessSettings(devices=(4,)), "names what is not there: 4 GPUs here, from 0 on"),
        ("cuda:1", ProcessSettings(devices="all"), "does not go with --device cuda:1"),
        ("auto", ProcessSettings(num_processes=2), "is for a CPU"),
        ("cuda:0", ProcessSettings(num_processes=2), "is for a CPU"),
    ],
)
def test_what_is_not_there_is_refused(device: str, processes: ProcessSettings, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        places(device, processes)


def test_a_machine_without_a_gpu_refuses_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    with pytest.raises(OptionError, match="0 GPUs here"):
        places("auto", ProcessSettings(devices="all"))


def test_a_pipe_is_for_one_process() -> None:
    with pytest.raises(OptionError, match="does not go with -"):
        places("cpu", ProcessSettings(num_processes=2), is_piped=True)
    assert places("cpu", ProcessSettings(), is_piped=True) == ("cpu", ())


def test_decoding_is_shared_as_well() -> None:
    how, settings = spread(
        TokenizerSettings(), DecodeSettings(processes=ProcessSettings(devices=(0, 1))), is_piped=False
    )
    assert (how.device, settings.processes.places) == ("cuda:0", ("cuda:0", "cuda:1"))


@pytest.mark.parametrize(("text", "expected"), [("all", "all"), ("0", (0,)), ("0,2", (0, 2)), ("3,1", (3, 1))])
def test_devices_are_read(text: str, expected: object) -> None:
    assert parse_devices(text) == expected


@pytest.mark.parametrize("text", ["", "a", "0,", "-1", "0,0", "1000", "0 1", "ALL"])
def test_what_names_no_devices_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no devices"):
        parse_devices(text)
