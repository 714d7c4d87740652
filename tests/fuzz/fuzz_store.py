"""A coverage-guided run over the readers of the store: `python -m tests.fuzz.fuzz_store -max_total_time=300`.

Needs atheris, which is no dependency of ours: install it where this Python finds it. All arguments are libFuzzer's. The
first byte of an input chooses the target. What ends in anything but a `SemdisError` is written to `crash-*`.
"""

import importlib
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

atheris = importlib.import_module("atheris")
with atheris.instrument_imports(include=["semdis_cli"]):
    from semdis_cli.errors import SemdisError
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    """Fuzz until libFuzzer has enough."""
    memory = Path("/dev/shm")
    scratch = (memory if memory.is_dir() else Path(tempfile.gettempdir())) / "semdis-fuzz"
    shutil.rmtree(scratch, ignore_errors=True)  # libFuzzer ends the process before anything could be swept
    corpus = scratch / "corpus"
    corpus.mkdir(parents=True)
    (scratch / "seeds").mkdir()
    for target, examples in seeds(scratch / "seeds").items():
        for number, data in enumerate(examples):
            (corpus / f"{target.__name__}-{number}").write_bytes(bytes([TARGETS.index(target)]) + data)
    work = scratch / "work"

    def run(data: bytes) -> None:
        if not data:
            return
        work.mkdir()
        try:
            with suppress(SemdisError):
                TARGETS[data[0] % len(TARGETS)](data[1:], work)
        finally:
            shutil.rmtree(work)

    limits = ["-rss_limit_mb=3000", "-timeout=10", "-max_len=20000", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
