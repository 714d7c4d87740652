"""The scripts in `findings/` are of their form, and listed. They install packages, so no test runs them.

`python -m tests.test_findings` writes the list of `findings/README.md` anew.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[1] / "findings"
README = FINDINGS / "README.md"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))
LIST = re.compile(r"^\| script \| what happens \|\n\|---\|---\|\n((?:\|.*\n)*)", re.MULTILINE)
MAX_LINES = 60

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def fact(script: Path) -> str:
    """The one sentence that a script shows: its second line."""
    return script.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ").replace("|", "\\|")


def rows() -> str:
    return "".join(f"| [`{script.name}`]({script.name}) | {fact(script)} |\n" for script in SCRIPTS)


def with_list(readme: str) -> str:
    found = LIST.search(readme)
    assert found, "findings/README.md has lost its table"
    return readme[: found.start(1)] + rows() + readme[found.end(1) :]


def installed(text: str) -> list[str]:
    """Return what the `pip install` lines of a script name."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    words = [word for line in lines if re.search(r"\bpip\b.* install ", line) for word in shlex.split(line)]
    return [word for word in words if re.fullmatch(r"[A-Za-z][\w.\[\],-]*(==.*)?", word)]


def test_every_finding_is_listed_with_its_sentence() -> None:
    readme = README.read_text(encoding="utf-8")
    assert readme == with_list(readme), "python -m tests.test_findings writes the list"


def test_there_are_findings() -> None:
    assert len(SCRIPTS) >= 5


@every_script
def test_a_finding_is_a_short_script_that_runs_by_itself(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) < MAX_LINES
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# "), "the second line is the fact, a sentence"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = "\n".join(lines)
    assert "mktemp -d" in text
    assert "semdis_cli" not in text


@every_script
def test_a_finding_pins_what_it_installs(script: Path) -> None:
    words = installed(script.read_text(encoding="utf-8"))
    names = [word for word in words if word not in {"pip", "install", "python", "python3"}]
    assert [name for name in names if "==" not in name] == []


def test_what_is_installed_without_a_version_is_noticed() -> None:
    line = (
        'if "$work/venv/bin/pip" install --quiet numpy "pillow==1" \\\n  torch==2 "safetensors==$version" ml_dtypes\n'
    )
    assert installed(line) == ["if", "install", "numpy", "pillow==1", "torch==2", "safetensors==$version", "ml_dtypes"]


if __name__ == "__main__":
    README.write_text(with_list(README.read_text(encoding="utf-8")), encoding="utf-8")
