"""Options -> the objects that a verb works with. Imports torch only when called."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from semdis_cli.cli.streams import check_stdout_takes_data, say
from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Planning, untold
from semdis_cli.files.url import Location, Url
from semdis_cli.option import OptionError
from semdis_cli.settings import (
    DecodeSettings,
    EncodeSettings,
    GeometrySettings,
    ModelSettings,
    PartSettings,
    ProcessSettings,
    SourceSettings,
    TokenizerSettings,
)
from semdis_cli.shares import Launched
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.cli.display import Display
    from semdis_cli.images.masks import MaskMaker
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.filed import FiledPlan
    from semdis_cli.sources.find import FoundImages
    from semdis_cli.sources.spool import PipedSource, Spool
    from semdis_cli.store.writing.held_rows import HeldRows

STDIO = Path("-")
Shared = TypeVar("Shared", EncodeSettings, DecodeSettings)  # settings of a run that several processes may share
_IMAGES_WORTH_ALL_GPUS = 50_000  # of fewer, a process takes longer to begin than to work


def peek_source(named: SourceSettings) -> "PipedSource | None":
    """Return the source on stdin, if it is among those named; only its first bytes are read. Raises `UsageError`."""
    if STDIO not in named.sources:
        return None
    if named.files_from == "-":
        raise UsageError("stdin cannot be both a SOURCE and the list of --files-from")
    from semdis_cli.sources.spool import peek_stdin

    stream = open_stdin("a tar or an image")
    return peek_stdin(stream, is_only=set(named.sources) == {STDIO} and named.files_from is None)


def refuse_others(latents: Location) -> None:
    """Raise `StoreError` if `latents` is something else that is known: images, an archive, a web page."""
    from semdis_cli.pipeline.advice import why_no_latents

    if (reason := why_no_latents(latents)) is not None:
        raise StoreError(reason)


def open_stdin(wanted: str) -> BinaryIO:
    """Stdin as bytes. Raises `UsageError` if it is closed, or a terminal: `wanted` is what should come there."""
    if sys.stdin is None:
        raise UsageError(f"stdin is closed; give {wanted} on it")
    if sys.stdin.isatty():
        raise UsageError(f"stdin is a terminal; give {wanted} on it, from a file or a pipe")
    return sys.stdin.buffer


def refuse_pipes(*paths: Location | None) -> None:
    """Raise `UsageError` if one of the paths given to a command that reads and writes no pipes is `-`."""
    if STDIO in paths:
        raise UsageError("-: encode and decode alone read and write pipes; give a file or a folder")


def check_apart(output: Path, source: Path) -> None:
    """Raise `UsageError` if one of the two lies in the other, or cannot be followed."""
    written, read = _resolved(output), _resolved(source)
    if written.is_relative_to(read) or read.is_relative_to(written):
        raise UsageError(f"-o {output} and {source} lie in one another; give a folder of its own")


def output_folder(output: Path | None, default: Path, *, is_single: bool) -> Path | None:
    """The folder to write; None for stdout: if asked for or, if one image came on stdin, nothing else was asked for.

    Raises `UsageError` for a folder that cannot be, and if stdout is wanted, and is closed or a terminal.
    """
    if output != STDIO and not (output is None and is_single):
        _resolved(output or default)
        return output or default
    check_stdout_takes_data()
    return None


def find_inputs(
    named: SourceSettings,
    rules: InputRules = DEFAULT_RULES,
    *,
    output: Path | None,
    quiet: bool,
    packed: Sequence[tuple[str, Location]] = (),
    stdin: "PipedSource | None" = None,
    display: "Display | None" = None,
    may_be_none: bool = False,
) -> "FoundImages":
    """All inputs of a run, sorted by key. Raises `UsageError` if none were named or a SOURCE does not exist.

    `rules`: what of them is passed over. `packed`: more tars, and what the keys in them begin with. `stdin`: what
    `peek_source` found; it is read to its end and kept on the disk of `output`. What a set in `output` holds keeps its
    keys.
    `display`: shows how far the listing is. `may_be_none`: no image is no mistake.
    """
    from semdis_cli.pipeline.advice import why_nothing
    from semdis_cli.sources.braces import expand_braces
    from semdis_cli.sources.find import find_images

    if not named.sources and not packed and named.files_from is None:
        raise OptionError("SOURCE", "name at least one SOURCE, or use --files-from")
    if named.null and named.files_from is None:
        raise OptionError("-0", "goes with --files-from")
    named = replace(named, sources=expand_braces(named.sources))
    _refuse_within((*named.sources, *(path for _, path in packed)), output)
    tell = untold if display is None else display.plan
    tell(Planning("listing photos" if stdin is None else "copying stdin"))
    listed = [] if named.files_from is None else _read_list(named.files_from, null=named.null)
    spool = _spool(stdin, output)
    found = find_images(
        named.sources,
        listed=listed,
        packed=packed,
        exclude=output,
        stdin=spool,
        rules=rules,
        held=_held_set(output),
        tell=tell,
    )
    if not may_be_none and (reason := why_nothing(named.sources, found)) is not None:
        raise UsageError(reason)
    if not quiet:
        _tell_of_rules(rules, found, say if display is None else display.say)
    tell(Planning("loading PyTorch"))
    return found


def find_mask_maker(latents: PartSettings, found: "FoundImages | FiledPlan", display: "Display") -> "MaskMaker | None":
    """Return what makes the masks that a set stores; None if it stores none. Raises what `find_masks` raises."""
    from semdis_cli.images.masks import masks_made
    from semdis_cli.sources.find import FoundImages
    from semdis_cli.sources.masks import find_masks

    if latents.masks is None:
        return masks_made(latents.parts, None)
    if isinstance(found, FoundImages):
        return masks_made(latents.parts, find_masks(latents.masks, found, display.plan))
    return masks_made(latents.parts, found.masks(latents.masks))


def _tell_of_rules(rules: InputRules, found: "FoundImages", say: Callable[[str], object]) -> None:
    if found.num_ignored:
        say(f"semdis: {count(found.num_ignored, 'other file')} passed over ({found.ignored_kinds})")
    if rules.idle:
        say(f"semdis: {', '.join(rules.idle)} had no effect: paths in patterns begin in the source")


def _refuse_within(sources: Iterable[Location], output: Path | None) -> None:
    """Raise `UsageError` for a source that lies in the folder to be written."""
    for source in sources:
        if output is None or source == STDIO or isinstance(source, Url):
            continue
        if _resolved(source).is_relative_to(_resolved(output)):
            raise UsageError(f"-o {output} holds the source {source}; give a folder of its own")


def _held_set(output: Path | None) -> "HeldRows | None":
    """The set of latents in `output`, finished or not, if there is one."""
    if output is None or not output.is_dir():
        return None
    from semdis_cli.store.writing.held_rows import HeldRows

    rows = HeldRows(output)
    return rows if rows.is_set else None


def _spool(stdin: "PipedSource | None", output: Path | None) -> "Spool | None":
    from semdis_cli.sources.spool import Spool, spool_folder

    return None if stdin is None else Spool(stdin, spool_folder(output))


def _read_list(name: str, *, null: bool) -> list[Path]:
    from semdis_cli.sources.file_list import read_file_list

    if name == "-" and sys.stdin is None:
        raise UsageError("stdin is closed; give the list of files on it")
    if name == "-":
        return read_file_list(sys.stdin.buffer, nul=null)
    try:
        with Path(name).open("rb") as stream:
            return read_file_list(stream, nul=null)
    except OSError as error:
        raise UsageError(f"the list cannot be read ({error.strerror})", place=name) from error


def _resolved(path: Path) -> Path:
    """Return the path without links. Raises `UsageError` for one that cannot be, or be looked at."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UsageError("cannot be followed (a link that leads to itself?)", place=path) from error
    try:
        resolved.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UsageError(f"cannot be reached ({error.strerror})", place=path) from error
    return resolved


def refuse_absent_device(device: str) -> None:
    """Raise `UsageError` for a device that is not there: before inputs are listed, read or fetched.

    What is always there costs nothing: torch is not loaded for it.
    """
    if device in {"auto", "cpu"}:
        return
    from semdis_cli.model.devices import find_device

    find_device(device)


def spread(how: TokenizerSettings, settings: Shared, *, is_piped: bool) -> tuple[TokenizerSettings, Shared]:
    """Return both with the numbers of the GPUs that are to share a run. Raises `OptionError` where there are none.

    `is_piped`: the run reads or writes a pipe, which other processes cannot.
    """
    processes = settings.processes
    if not processes.is_given:
        return how, settings
    if is_piped:
        raise OptionError(processes.flag, "does not go with -: other processes cannot read or write a pipe")
    return _in_cluster(how, settings) if processes.is_in_cluster else _on_this_machine(how, settings)


def _on_this_machine(how: TokenizerSettings, settings: Shared) -> tuple[TokenizerSettings, Shared]:
    processes, flag = settings.processes, settings.processes.flag
    if processes.devices is not None and how.device not in {"auto", "cuda"}:
        raise OptionError(flag, f"does not go with --device {how.device}")
    from semdis_cli.pipeline.processes.fork_server import start_early

    start_early()
    if processes.devices is None and how.device == "cpu":
        return how, settings
    from semdis_cli.model.devices import count_gpus

    num_gpus, numbers = count_gpus(), processes.devices
    if numbers is None:
        if num_gpus or how.device != "auto":
            raise OptionError(flag, "is for a CPU: give --device cpu too, or --devices for the GPUs")
        return how, settings
    numbers = tuple(range(num_gpus)) if numbers == "all" else numbers
    if not numbers or max(numbers) >= num_gpus:
        raise OptionError(flag, f"names what is not there: {count(num_gpus, 'GPU')} here, from 0 on")
    return _on_gpus(how, settings, numbers)


def _in_cluster(how: TokenizerSettings, settings: Shared) -> tuple[TokenizerSettings, Shared]:
    """Return both for a run in a cluster. Raises `MissingExtraError`, and `UsageError` for an address of nothing."""
    from semdis_cli.pipeline.on_ray.cluster import check_address

    check_address(settings.processes.address)
    is_on_gpus = settings.processes.gpus_per_worker is not None
    if how.device not in {"auto", "cuda"} | (set() if is_on_gpus else {"cpu"}):
        flag = "--gpus-per-worker" if is_on_gpus else "--engine"
        raise OptionError(flag, f"does not go with --device {how.device}")
    if how.device != "cuda" and not is_on_gpus:
        return how, settings
    from semdis_cli.model.devices import count_gpus

    if count_gpus():
        return replace(how, device="cuda"), settings
    return replace(how, device="cpu"), replace(settings, processes=replace(settings.processes, is_distant=True))


def computing_there(
    tokenizer: "Tokenizer", processes: ProcessSettings, display: "Display", *, quiet: bool
) -> "Tokenizer":
    """Return a model as it computes in a cluster, if that is on devices that this machine does not have."""
    if not processes.is_distant:
        return tokenizer
    from semdis_cli.pipeline.on_ray.record import in_cluster

    display.plan(Planning("asking the cluster how it computes"))
    distant = in_cluster(tokenizer, processes)
    if not quiet:
        display.say(f"semdis: in the cluster: {describe_computing(distant)}")
    return distant


def on_own_gpu(how: TokenizerSettings, launched: Launched) -> TokenizerSettings:
    """Return `how` with one of the GPUs that processes which were launched together all see; others are as they are."""
    if launched.local_rank is None or how.device not in {"auto", "cuda"}:
        return how
    from semdis_cli.model.devices import count_gpus

    num_gpus = count_gpus()
    return replace(how, device=f"cuda:{launched.local_rank % num_gpus}") if num_gpus > 1 else how


def spread_if_it_pays(how: TokenizerSettings, settings: Shared, num_images: int) -> tuple[TokenizerSettings, Shared]:
    """Return both with all GPUs where there are several, nothing says which, and so many images are worth it."""
    if settings.processes.is_given or how.device not in {"auto", "cuda"} or num_images < _IMAGES_WORTH_ALL_GPUS:
        return how, settings
    from semdis_cli.model.devices import count_gpus

    num_gpus = count_gpus()
    return _on_gpus(how, settings, tuple(range(num_gpus))) if num_gpus > 1 else (how, settings)


def _on_gpus(how: TokenizerSettings, settings: Shared, numbers: tuple[int, ...]) -> tuple[TokenizerSettings, Shared]:
    processes = replace(settings.processes, devices=numbers)
    return replace(how, device=f"cuda:{numbers[0]}"), replace(settings, processes=processes)


def start_processes_early(how: TokenizerSettings, num_images: int, num_processes: int = 1) -> None:
    """Begin to load what the processes of a run over so many images need, while the model is loaded."""
    from semdis_cli.model.devices import find_device
    from semdis_cli.pipeline.processes.fork_server import start_early
    from semdis_cli.pipeline.processes.shared import pays

    if num_processes > 1 or pays(num_images, is_on_cpu=find_device(how.device).type == "cpu"):
        start_early()


def as_recorded(how: TokenizerSettings, folder: Path | None) -> TokenizerSettings:
    """Return `how`, with "auto" as a set that is there already was made, however many images there are now."""
    from semdis_cli.store.writing.finished import recorded_settings

    recorded = None if folder is None or how.compile != "auto" else recorded_settings(folder)
    if recorded is None or recorded.is_compiled is None:
        return how
    return replace(how, compile="on" if recorded.is_compiled else "off")


def load_model(
    model: ModelSettings,
    how: TokenizerSettings,
    num_images: int,
    geometry: GeometrySettings,
    display: "Display",
    *,
    quiet: bool,
) -> "Tokenizer":
    """Load a model for so many images, which get sizes by `geometry`, and say so.

    One that is neither bundled nor here may have to be downloaded first.
    """
    from semdis_cli.model.tokenizer import Tokenizer

    num_alike = num_images if geometry.has_few_sizes else 0
    name = model.name
    is_here = name == BUNDLED_MODEL or Path(name).exists()
    display.plan(Planning("loading the model" if is_here else f"loading the model {name}, downloading it if need be"))
    tokenizer = Tokenizer.load(name, how, revision=model.revision, num_alike=num_alike)
    announce(tokenizer, quiet, display.say)
    return tokenizer


def describe_computing(tokenizer: "Tokenizer") -> str:
    """Return how a model computes, for a person."""
    return f"running in {tokenizer.dtype_name} on {tokenizer.device_name} ({tokenizer.kernels} kernels)"


def announce(tokenizer: "Tokenizer", quiet: bool, say: Callable[[str], object] = say) -> None:
    """On stderr: a line that says which model runs, and a line that says how."""
    if quiet:
        return
    identity = tokenizer.identity
    revision = f" at {identity.revision}" if identity.revision else ""
    raw = "" if tokenizer.is_whitened else ": latents are raw, not whitened"
    say(
        f"semdis: model {identity.name}{revision} (sha256 {identity.weights_sha256:.12}), stored in "
        f"{tokenizer.description}{raw}"
    )
    say(f"semdis: {describe_computing(tokenizer)}")
    for note in (tokenizer.device_note, tokenizer.compile_note):
        if note is not None:
            say(f"semdis: {note}")
