"""The option tables of `docs/commands/`, from the commands themselves: `python -m tests.command_pages` writes.

A page has two marks, `<!-- options -->` and `<!-- end of options -->`; all that stands between them is written here.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.main import get_command

from semdis_cli.cli.app import app

PAGES = Path(__file__).parents[1] / "docs" / "commands"
BEGINNING, END = "<!-- options -->\n", "<!-- end of options -->\n"
OPTIONS = re.compile(rf"(?<={BEGINNING}).*?(?={END})", re.DOTALL)
FACTS = re.compile(r"\s*\[([^\[\]]+)\]$")
RANGE = re.compile(r"(?:^|; )([\d.]*(?:<=)?x[<>]=[\d.]+)$")

COMMANDS = {command.name or "": command for command in get_command(app).commands.values()}  # type: ignore[attr-defined]


def option_tables(name: str) -> str:
    """The tables of the command `name`, one for each group that `--help` shows, in its order."""
    command = COMMANDS[name]
    context = typer.Context(command, info_name=name)
    groups: dict[str, list[str]] = defaultdict(list)
    for parameter in command.get_params(context):
        if parameter.param_type_name == "option" and (record := parameter.get_help_record(context)):
            group = getattr(parameter, "rich_help_panel", None) or "Options"
            groups[group].append(row(*record))
    return "\n".join("".join(table(group, rows)) for group, rows in groups.items())


def table(group: str, rows: list[str]) -> Iterator[str]:
    """The lines of one group."""
    yield f"| {group} | meaning | default |\n|---|---|---|\n"
    yield from rows


def row(usage: str, text: str) -> str:
    """The line of one option, from what `--help` says of it."""
    text, default, limits = facts(text)
    names = ", ".join(f"`{name}`" for name in usage.split(", "))
    meaning = f"{text.removesuffix('.')} ({limits})" if limits else text.removesuffix(".")
    cells = (names, in_cell(meaning), f"`{default}`" if default and " " not in default else default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def facts(text: str) -> tuple[str, str, str]:
    """What stands in brackets behind a help text, apart: the text, the default, and the limits and environment."""
    default, others = "", []
    while found := FACTS.search(text):
        text, inner = text[: found.start()], found[1]
        if limits := RANGE.search(inner):
            others.append(limits[1].replace("x", "value"))
            inner = inner[: limits.start()]
        before, is_there, after = inner.partition("default: ")
        default = after if is_there else default
        others += [before.removesuffix("; ").replace("env var: ", "environment: ")] if before else []
    return text.strip(), default, "; ".join(others)


def in_cell(text: str) -> str:
    """`text` as Markdown shows it: no HTML, no emphasis."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def page(name: str) -> Path:
    """The page of the command `name`."""
    return PAGES / f"{name}.md"


def with_tables(name: str) -> str:
    """The page of the command `name` as it should be."""
    text = page(name).read_text(encoding="utf-8")
    assert OPTIONS.search(text), f"{page(name)} has lost its marks"
    return OPTIONS.sub(lambda _: f"\n{option_tables(name)}\n", text)


if __name__ == "__main__":
    for each in COMMANDS:
        page(each).write_text(with_tables(each), encoding="utf-8")
