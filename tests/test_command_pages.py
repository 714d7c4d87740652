"""The pages of `docs/commands/`: their option tables are those of `--help`, and their examples are run as they stand.

An example may use `photos/`, and on other pages than that of `encode` also `latents/`, which `encode photos/` made.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_pages import COMMANDS, PAGES, page, with_tables
from tests.test_readme import PROJECT, blocks, examples, first_complaint

LISTS = (PROJECT / "README.md", PAGES / "README.md")
DOCUMENTS = sorted([PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").rglob("*.md")])
EXAMPLES = [*map(page, COMMANDS), PROJECT / "docs" / "python.md"]
LINK = re.compile(r"\]\((?![a-z]+:)([^)#]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_the_options_of_its_command(name: str) -> None:
    assert page(name).read_text(encoding="utf-8") == with_tables(name), "python -m tests.command_pages"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_shows_its_command(name: str) -> None:
    text = page(name).read_text(encoding="utf-8")
    assert text.startswith(f"# semdis {name}\n")
    assert re.search(rf"^\$ .*semdis {name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("listing", LISTS, ids=["readme", "commands"])
def test_every_page_is_listed(listing: Path) -> None:
    text = listing.read_text(encoding="utf-8")
    folder = "docs/commands/" if listing == LISTS[0] else ""
    assert all(f"[`{name}`]({folder}{name}.md)" in text for name in COMMANDS)
    assert {file.stem for file in PAGES.iterdir()} == {*COMMANDS, "README"}


def anchors(document: Path) -> set[str]:
    """The names by which links reach the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(document: Path) -> None:
    for path, heading in LINK.findall(document.read_text(encoding="utf-8")):
        target = (document.parent / path) if path else document
        assert target.exists(), path
        assert not heading or heading in anchors(target), f"{path}#{heading}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos/` and `latents/`."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(PROJECT / "tests" / "photos", folder / "photos")
    subprocess.run([sys.executable, "-m", "semdis_cli", "encode", "photos", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("document", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_a_page_run(document: Path, made: Path, tmp_path: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert list(examples(text))
    assert not any(block.not_run for block in blocks(text) if block.language == "console")
    folder = tmp_path / "folder"
    shutil.copytree(made, folder)
    if document.stem == "encode":
        shutil.rmtree(folder / "latents")
    assert first_complaint(text, folder) == ""
