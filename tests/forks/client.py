"""Has a program run in a process forked by `tests.forks.server`, with the streams of this one, and ends as it ends.

Run as `python -S client.py SOCKET -m MODULE ARGUMENT...`, or with `-c TEXT`; it imports little.
"""

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Ask, wait, and end with the same status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(sys.argv[1])
        socket.send_fds(server, [b"\0"], [0, 1, 2, os.open(".", os.O_RDONLY)])
        server.sendall(json.dumps({"arguments": sys.argv[2:], "env": dict(os.environ)}).encode())
        server.shutdown(socket.SHUT_WR)
        for stream in (0, 1, 2):  # who reads or writes at their other ends deals with the one that was forked
            os.close(stream)
        answers = server.makefile()
        number = os.open(f"{sys.argv[1]}-{os.getpid()}", os.O_CREAT | os.O_WRONLY)
        os.write(number, answers.readline().encode())  # whose number it is
        code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
