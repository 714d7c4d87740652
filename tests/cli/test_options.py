"""Options are the fields of settings; a text that is read by ourselves is what it says, or wrong usage."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.cli.options import command
from semdis_cli.errors import UsageError
from semdis_cli.option import Group, Option
from semdis_cli.settings import (
    DecodeSettings,
    ErrorLimit,
    LatentSettings,
    Seed,
    ShardSettings,
    Workers,
    WriteSettings,
    parse_number_or_share,
)


@given(st.integers(0, 10**18 - 1))
def test_a_number_is_a_number(count: int) -> None:
    assert parse_number_or_share(str(count), "--max-errors") == (Fraction(count), False)


@given(st.decimals(0, 100, places=3))
def test_a_share_is_exact(percent: object) -> None:
    assert parse_number_or_share(f"{percent}%", "--max-errors") == (Fraction(str(percent)), True)


BAD = [
    "",
    " 1",
    "1 ",
    "-1",
    "+1",
    "1.5",
    "%",
    "1%%",
    "101%",
    "100.1%",
    ".5%",
    "5.%",
    "1e3",
    "nan",
    "inf%",
    "1/2%",
    "1_0",
]


@pytest.mark.parametrize("text", [*BAD, "\u0663", "1\n", "9" * 5000, "9" * 5000 + "%"])
@pytest.mark.parametrize("option", ["--max-errors", "--sample"])
def test_anything_else_is_a_usage_error_that_names_the_option(text: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} is ") as caught:
        parse_number_or_share(text, option)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=8))
def test_whatever_is_written_there_is_a_number_a_share_or_a_usage_error(text: str) -> None:
    try:
        value, is_share = parse_number_or_share(text, "--sample")
    except UsageError:
        return
    assert 0 <= value <= (100 if is_share else 10**18)


def test_a_limit_keeps_what_was_written() -> None:
    limit = ErrorLimit.parse("05.0%")
    assert (limit.text, limit.value, limit.is_share) == ("05.0%", Fraction(5), True)


# ---- Groups of settings as options ----


@dataclass(frozen=True)
class Inner(Group):
    share: Annotated[float, Option("A share.", within=(0, 1))] = 0.5
    seed: Seed = 0
    hidden: int = 7


@dataclass(frozen=True)
class Outer(Group):
    inner: Inner = Inner(share=0.25)
    names: Annotated[tuple[str, ...], Option("Names.", flags="--name -n", parse=str.upper)] = ()
    colour: Annotated[int, Option("A number in hexadecimal.", parse=lambda text: int(text, 16), spell=hex)] = 255
    num_workers: Workers = field(default_factory=lambda: 3)


def called(*arguments: str) -> dict[str, Any]:
    """What a command with both groups takes from the command line."""
    taken: dict[str, Any] = {}

    @command()
    def show(
        *, outer: Outer, latents: LatentSettings, loud: Annotated[bool, Option("Loud.", flags="--loud")] = False
    ) -> None:
        taken.update(outer=outer, latents=latents, loud=loud)

    app = typer.Typer()
    app.command()(show)
    app(arguments, standalone_mode=False)
    return taken


def test_without_options_a_command_gets_the_defaults_of_its_groups() -> None:
    assert called() == {"outer": Outer(), "latents": LatentSettings(), "loud": False}


def test_each_option_reaches_its_field_and_one_that_groups_share_reaches_both() -> None:
    arguments = (
        "--share",
        "1",
        "--seed",
        "5",
        "--name",
        "a",
        "-n",
        "b",
        "--colour",
        "0x10",
        "--workers",
        "8",
        "--loud",
    )
    taken = called(*arguments, "--posterior", "sample")
    assert taken["outer"] == Outer(Inner(1.0, 5), ("A", "B"), 16, 8)
    assert taken["latents"] == LatentSettings(posterior="sample", seed=5)
    assert taken["loud"]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("--share", "1.5"), UsageError, "--share must be in 0..1, not 1.5"),
        (("--share", "nan"), UsageError, "--share must be in 0..1, not nan"),
        (("--colour", "red"), typer.BadParameter, "invalid literal for int"),
        (("--workers", "0"), typer.BadParameter, "1"),
        (("--hidden", "8"), Exception, "No such option"),
    ],
)
def test_what_is_out_of_range_or_unreadable_is_refused(
    arguments: tuple[str, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        called(*arguments)
    assert says in str(getattr(caught.value, "message", caught.value))


def test_two_settings_of_one_name_are_no_command() -> None:
    def clash(*, latents: LatentSettings, seed: Annotated[int, Option("Another seed.", flags="--seed")] = 0) -> None:
        del latents, seed

    with pytest.raises(AssertionError, match="two options are called seed"):
        command()(clash)


def test_a_group_that_a_program_makes_is_checked_too() -> None:
    with pytest.raises(UsageError, match=r"--quality must be in 1\.\.100, not 101"):
        WriteSettings(quality=101)
    with pytest.raises(UsageError, match=r"--shard-images must be in 1\.\.65536, not 0"):
        ShardSettings(shard_images=0)
    with pytest.raises(UsageError, match="--workers must be at least 1, not 0"):
        DecodeSettings(num_workers=0)
