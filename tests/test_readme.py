"""The README's examples are run as they stand, in order, in one working folder that holds `photos/`.

A ```console block holds commands: lines that start with `$ `, continued by lines that start with `> `; the others are
output, which is not compared. A command ends with 0, unless the comment `# exits with N` stands behind or below it.
A ```python block is a script of its own. `<!-- not run: REASON -->` directly before a block excuses it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MAX_NOT_RUN = 4

FENCE = re.compile(r"^[ >]*(?:```|~~~)", re.MULTILINE)
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\s+)?"
    r"^(?P<fence>```+|~~~+) *(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
EXITS_WITH = re.compile(r"# exits with (?P<status>\d+)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block. `line`: where its first line of text stands, from 1. `not_run`: why not, or "" if it is run."""

    language: str
    line: int
    text: str
    not_run: str


@dataclass(frozen=True)
class Example:
    """Something to run: arguments of a process, its standard input, and the exit status that the README promises."""

    line: int
    arguments: tuple[str, ...]
    stdin: str
    status: int


def blocks(markdown: str) -> Iterator[Block]:
    assert not FENCE.search(BLOCK.sub("", markdown)), "a block is indented or not closed"
    for match in BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start("text")) + 1
        yield Block(match["language"], line, match["text"], match["reason"] or "")


def commands(block: Block) -> Iterator[Example]:
    """The commands of a console block, each with the line it starts on."""
    starts = [*re.finditer(r"^\$ (.*(?:\n> .*)*)", block.text, re.MULTILINE)]
    for start in starts:
        command = start[1].replace("\n> ", "\n")
        line_below = block.text[start.end() + 1 :].partition("\n")[0]
        promise = EXITS_WITH.search(command) or EXITS_WITH.match(line_below)
        line = block.line + block.text.count("\n", 0, start.start())
        yield Example(line, ("bash", "-c", command), "", int(promise["status"]) if promise else 0)


def script(block: Block) -> Example:
    """A Python block, moved down so that its traceback shows the lines of the README."""
    return Example(block.line, (sys.executable, "-"), "\n" * (block.line - 1) + block.text, 0)


def examples(markdown: str) -> Iterator[Example]:
    for block in blocks(markdown):
        if block.language == "console" and not block.not_run:
            yield from commands(block)
        elif block.language == "python" and not block.not_run:
            yield script(block)


def run(example: Example, folder: Path) -> str:
    """Run one example in `folder`. Returns "" if it ended as promised, else what to tell the reader."""
    scripts = Path(sys.executable).parent
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "100"}
    environment.pop("SEMDIS_MODEL", None)
    result = subprocess.run(
        example.arguments,
        input=example.stdin,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if result.returncode == example.status:
        return ""
    what = example.arguments[-1] if not example.stdin else "the script"
    outcome = f"ended with {result.returncode}, not {example.status}"
    return f"line {example.line}: {what}\n{outcome}\n{result.stdout}{result.stderr}"


def first_complaint(markdown: str, folder: Path) -> str:
    """Run the examples until one fails: those after it may need what it should have made."""
    return next(filter(None, (run(example, folder) for example in examples(markdown))), "")


@pytest.fixture(scope="module")
def readme() -> str:
    return (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_examples_of_the_readme_run(readme: str, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "tests" / "photos", tmp_path / "photos")
    assert first_complaint(readme, tmp_path) == ""


def test_few_examples_of_the_readme_are_excused(readme: str) -> None:
    runnable = [block for block in blocks(readme) if block.language in {"console", "python"}]
    excused = [f"line {block.line}: {block.not_run}" for block in runnable if block.not_run]
    assert len(runnable) > len(excused), excused
    assert len(excused) <= MAX_NOT_RUN, excused


def test_no_example_of_the_readme_is_in_a_block_that_nobody_runs(readme: str) -> None:
    assert [block.line for block in blocks(readme) if block.language in {"bash", "sh", "shell", "py"}] == []


MADE_UP = """\
# Title
```console
$ echo one > made
made by the line above
$ cat made \\
> > copied
$ false   # exits with 1
$ exit 3
# exits with 3
```
<!-- not run: needs the network -->
```console
$ exit 9
```

```python
assert open("copied").read() == "one\\n"
```
```text
$ exit 8
```
"""


def test_examples_run_in_order_in_one_folder(tmp_path: Path) -> None:
    assert first_complaint(MADE_UP, tmp_path) == ""
    assert (tmp_path / "copied").read_text() == "one\n"


def test_examples_know_their_lines_and_what_they_end_with() -> None:
    assert [(each.line, each.status) for each in examples(MADE_UP)] == [(3, 0), (5, 0), (7, 1), (8, 3), (17, 0)]


def test_excused_blocks_give_a_reason() -> None:
    assert [block.not_run for block in blocks(MADE_UP)] == ["", "needs the network", "", ""]


def test_a_failing_command_is_reported_with_its_line(tmp_path: Path) -> None:
    complaint = first_complaint("text\n\n```console\n$ true\n$ ls missing-folder\n```\n", tmp_path)
    assert complaint.startswith("line 5: ls missing-folder\nended with 2, not 0\n")
    assert "No such file" in complaint


def test_a_command_that_should_fail_but_does_not_is_reported(tmp_path: Path) -> None:
    complaint = first_complaint("```console\n$ true  # exits with 3\n```\n", tmp_path)
    assert "ended with 0, not 3" in complaint


def test_a_failing_script_is_reported_with_the_line_of_the_readme(tmp_path: Path) -> None:
    complaint = first_complaint('Text.\n\n```python\nx = 1\nraise ValueError("planted")\n```\n', tmp_path)
    assert complaint.startswith("line 4: the script\nended with 1, not 0\n")
    assert "line 5, in <module>" in complaint


@pytest.mark.parametrize("markdown", ["```console\n$ true\n", "1. Text:\n   ```console\n   $ true\n   ```\n"])
def test_a_block_that_would_be_overlooked_is_reported(markdown: str) -> None:
    with pytest.raises(AssertionError, match="indented or not closed"):
        list(blocks(markdown))
