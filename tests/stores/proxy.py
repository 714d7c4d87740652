"""A server before another one that hands on what it is asked for, and fails where it is told to."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_OWN_HEADERS = {"connection", "transfer-encoding", "content-length", "server", "date"}


class Answer(Enum):
    """Ways to answer a request."""

    PASS = auto()  # as the server behind does
    ERROR = auto()  # with 500, and the server behind hears nothing of it
    CUT = auto()  # as the server behind does, but half of it
    LOST = auto()  # the server behind hears of it, and no answer comes


Choose = Callable[[str, str], Answer]  # by the method, and the path with what is behind `?`


@dataclass
class Proxy:
    """Proxy at `address`; `choose` says how it answers, and `asked` has all that it was asked, in order."""

    address: str
    choose: Choose = lambda _method, _path: Answer.PASS
    asked: list[tuple[str, str]] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.proxy = Proxy(f"http://127.0.0.1:{self.server_address[1]}")
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        pass  # whoever asked was killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        path, body = unquote(self.path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with server.lock:
            server.proxy.asked.append((self.command, path))
            answer = server.proxy.choose(self.command, path)
        if answer is Answer.ERROR:
            self._send(500, [], b"<Error><Code>InternalError</Code><Message>no</Message></Error>")
            return
        connection = http.client.HTTPConnection(server.behind)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if answer is Answer.LOST:
            self.close_connection = True
            return
        size = response.getheader("Content-Length") if self.command == "HEAD" else None
        self._send(response.status, response.getheaders(), data, size, is_cut=answer is Answer.CUT)

    def _send(
        self, status: int, headers: list[tuple[str, str]], data: bytes, size: str | None = None, *, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", size or str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_cut else data)
        self.close_connection = self.close_connection or is_cut

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def proxy_of(address: str) -> Iterator[Proxy]:
    """Run a proxy before the server at `address`, in threads of this process."""
    with _Server(urlsplit(address).netloc) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.proxy
        server.shutdown()
