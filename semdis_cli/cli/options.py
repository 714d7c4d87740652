"""Groups of settings -> options of a command, and the options that only the terminal has."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from semdis_cli.files.url import Location, parse_location, was_url
from semdis_cli.option import OUTPUT, Option, OptionError, default_of, option_of

StoredLatents = Annotated[
    Location,
    Option(
        "Folder that `semdis encode` wrote, or one shard file; may be a URL.", is_argument=True, parse=parse_location
    ),
]
# Of commands that compute nothing, so that no device is asked for.
Processes = Annotated[
    int | None,
    Option(
        "Processes of this machine that share the work; of a Ray cluster, at most so many.  "
        "[default: 1; as many as the cluster has room for]",
        min=1,
        show_default=False,
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    Option("Who does the work: this machine, or a Ray cluster whose nodes see the same folders."),
]
Address = Annotated[
    str | None,
    Option(
        "Head of the Ray cluster.  [default: of the cluster that this machine is part of]",
        metavar="HOST:PORT",
        envvar="RAY_ADDRESS",
        show_default=False,
    ),
]
Json = Annotated[bool, Option("Print the closing report as one JSON object on stdout.", OUTPUT, flags="--json")]
Quiet = Annotated[bool, Option("Say nothing but errors.", OUTPUT, flags="--quiet -q")]


@dataclass(frozen=True)
class Reporting:
    """Settings of what is told of a run, and in which form."""

    as_json: Json = False
    quiet: Quiet = False


def command(*panels: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: each setting of the groups among its keyword arguments becomes an option.

    A setting that two groups share is one option for both. Texts are parsed before the function runs; an `OptionError`
    is shown as Typer shows its own. `panels`: their order in the help, where it is not that of the arguments.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = inspect.signature(function).parameters
        offers = _unite(offer for name in own for offer in _offers(name, hints[name], own[name].default))
        offers.sort(key=lambda offer: panels.index(offer.panel) if offer.panel in panels else -1)

        @wraps(function)
        def run(**given: Any) -> None:
            try:
                function(**{name: _take(name, hints[name], given) for name in own})
            except OptionError as error:
                raise typer.BadParameter(error.why, param_hint=error.flag) from error

        run.__dict__["__signature__"] = inspect.Signature([offer.parameter for offer in offers])
        run.__annotations__ = {offer.parameter.name: offer.parameter.annotation for offer in offers}
        return run

    return decorate


def given_flags(context: typer.Context, groups: Iterable[type], but: Iterable[type]) -> Iterator[str]:
    """Yield the flags on the command line that are settings of `groups`, and of none of the others, `but`."""
    known, others = _offered_by(groups), _offered_by(but)
    for name in known.keys() - others.keys():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            yield known[name].spellings(name)[0]


def _offered_by(groups: Iterable[type]) -> dict[str, Option]:
    """Return the options of groups by the names of their parameters."""
    offers = (offer for group in groups for offer in _offers("", group, None))
    return {offer.parameter.name: offer.option for offer in offers if offer.option is not None}


@dataclass(frozen=True)
class _Offer:
    """Parameter that Typer offers, and the option that it was made of (None for what is no option)."""

    parameter: inspect.Parameter
    option: Option | None = None

    @property
    def panel(self) -> str | None:
        return None if self.option is None else self.option.panel


def _unite(offers: Iterable[_Offer]) -> list[_Offer]:
    """Return the offers, each name once."""
    known: dict[str, _Offer] = {}
    for offer in offers:
        first = known.setdefault(offer.parameter.name, offer)
        assert first.option == offer.option, f"two options are called {offer.parameter.name}"
    return list(known.values())


def _offers(name: str, hint: Any, default: Any) -> Iterator[_Offer]:
    """Yield the offer for an argument of a command, or a field of a group; of a group, that for each field."""
    if _is_group(hint):
        hints = get_type_hints(hint, include_extras=True)
        for one in fields(hint):
            is_given = is_dataclass(default) and default_of(one) is not None
            yield from _offers(one.name, hints[one.name], getattr(default, one.name) if is_given else default_of(one))
    elif (found := option_of(hint)) is not None:
        kind, option = found
        typed, default = _typer_type(kind, option, default)
        yield _Offer(_parameter(_offered_name(name, option), typed, _typer_info(name, option, default)), option)
    elif hint is typer.Context:
        yield _Offer(_parameter(name, hint, inspect.Parameter.empty))


def _take(name: str, hint: Any, given: dict[str, Any]) -> Any:
    """Return the value of one argument or field from those that Typer has read; None is left to the group's default."""
    if _is_group(hint):
        hints = get_type_hints(hint, include_extras=True)
        values = {one.name: _take(one.name, hints[one.name], given) for one in fields(hint)}
        return hint(**{name: value for name, value in values.items() if value is not None})
    if (found := option_of(hint)) is None:
        return given[name] if hint is typer.Context else None
    kind, option = found
    value = given[_offered_name(name, option)]
    if _is_repeated(kind):
        return tuple(_parse(name, option, one) for one in value or ())
    return _parse(name, option, value)


def _parse(name: str, option: Option, value: Any) -> Any:
    if isinstance(value, Path) and was_url(value):
        raise OptionError(
            option.spellings(name)[0], "takes no URL; only images, latents that are read, and encode's -o do"
        )
    if option.parse is None or value is None:
        return value
    try:
        return option.parse(value)
    except ValueError as error:
        raise OptionError(option.spellings(name)[0], str(error)) from error


def _is_group(hint: Any) -> bool:
    return is_dataclass(hint)


def _is_repeated(kind: Any) -> bool:
    """Tell whether an option of this type may be given more than once."""
    return get_origin(kind) is tuple and get_args(kind)[-1] is ...


def _typer_type(kind: Any, option: Option, default: Any) -> tuple[Any, Any]:
    """Return the type and the default of an option as Typer takes them: lists for tuples, and texts to be parsed."""
    if _is_repeated(kind):
        inner: Any = get_args(kind)[0]
        return (list[str] if option.parse else list.__class_getitem__(inner)) | None, None
    if option.parse is not None:
        return (str | None, None) if default is None else (str, option.spell(default))
    return (kind | None, None) if default is None else (kind, default)


def _typer_info(name: str, option: Option, default: Any) -> Any:
    """Return what Typer is to know of an option, or of an argument."""
    if option.is_argument:
        return typer.Argument(default, metavar=option.metavar, help=option.help, show_default=option.show_default)
    return typer.Option(
        default,
        *option.spellings(name),
        help=option.help,
        min=option.min,
        max=option.max,
        metavar=option.metavar,
        envvar=option.envvar,
        show_default=option.show_default,
        rich_help_panel=option.panel,
    )


def _offered_name(name: str, option: Option) -> str:
    spelled = name if option.is_argument else option.spellings(name)[0].strip("-").replace("-", "_")
    return f"{spelled}_" if iskeyword(spelled) else spelled


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
