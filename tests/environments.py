"""Environments for packages that cannot lie beside ours: each is made once a run, in a temporary folder."""

import json
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_NO_INDEX = ("No matching distribution", "Could not find a version", "NewConnectionError")


class Environments:
    """Makes environments below a folder, and runs scripts in them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._python = cache(self._make)

    def ask(self, script: str, *requirements: str, beside: bool = False, arguments: tuple[str, ...] = ()) -> Any:
        """The JSON that `script` prints with exactly these `requirements`; skips the test where they cannot be had.

        `beside`: what they lack is taken from this environment (torch is), and nothing else is installed.
        """
        python = self._python(requirements, beside)
        done = subprocess.run(
            [python, "-c", script, *arguments], capture_output=True, text=True, timeout=300, cwd=self._root, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def _make(self, requirements: tuple[str, ...], beside: bool) -> str:
        folder = self._root / f"venv-{len(list(self._root.iterdir()))}"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=300)
        python = folder / "bin" / "python"
        how = ["--no-deps"] if beside else []
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *how, *requirements]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode != 0 and any(words in done.stderr for words in _NO_INDEX):
            pytest.skip(f"cannot be installed here: {done.stderr.strip().splitlines()[-1]:.200}")
        assert done.returncode == 0, done.stderr[-3000:]
        if beside:
            self._borrow(folder)
        return str(python)

    @staticmethod
    def _borrow(folder: Path) -> None:
        """Let an environment find the packages of this one behind its own."""
        [packages] = folder.glob("lib/python*/site-packages")
        ours = {sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))}
        lines = [f"import site; site.addsitedir({path!r})" for path in sorted(ours)]
        (packages / "zz_borrowed.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Environments that last as long as this run."""
    return Environments(tmp_path_factory.mktemp("environments"))
