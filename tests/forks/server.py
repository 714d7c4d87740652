"""Forks a process for each client that connects: `python -m tests.forks.server SOCKET [MODULE...]`.

Ends at the end of stdin. torch is loaded, and nothing computed: a pool of threads would not survive a fork.
"""

import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
from contextlib import suppress

from semdis_cli.cli.app import app
from semdis_cli.errors import SemdisError

# What is imported here need not be imported by each child.
MODULES = (
    "semdis_cli.model.tokenizer",
    "semdis_cli.pipeline.encode",
    "semdis_cli.pipeline.decode",
    "semdis_cli.pipeline.roundtrip",
    "semdis_cli.pipeline.export",
    "semdis_cli.pipeline.gather",
)


def serve(listener: socket.socket) -> socket.socket | None:
    """Return the connection in a process forked to answer it, and None when nobody will connect any more."""
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if listener.fileno() not in ready:
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return connection
        connection.close()


def answer(connection: socket.socket) -> list[str]:
    """Return what was asked for, in another fork; here, wait and say how that ended."""
    _, (*streams, folder), _, _ = socket.recv_fds(connection, 1, 4)
    with connection.makefile() as text:
        job = json.load(text)
    child = os.fork()
    if child:
        for stream in (*streams, folder):
            os.close(stream)
        connection.sendall(f"{child}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(BrokenPipeError):  # the client was killed
            connection.sendall(f"{status}\n".encode())
        os._exit(0)
    connection.close()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.fchdir(folder)
    os.close(folder)
    os.environ.clear()
    os.environ.update(job["env"])
    return list(job["arguments"])


def run(how: str, program: str, *arguments: str) -> None:
    """What Python does with `-m` or `-c`."""
    if how == "-m":
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [how, *arguments]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    place, *modules = sys.argv[1:]
    for module in modules or MODULES:
        importlib.import_module(module)
    if not modules:
        with suppress(SemdisError):
            app(["encode", "no such folder"], standalone_mode=False)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        print("ready", flush=True)  # noqa: T201
        asked = serve(listener)
    if asked is not None:
        run(*answer(asked))
