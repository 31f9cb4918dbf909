"""A loopback HTTP proxy in front of a tracking server that misbehaves as it is told."""

import contextlib
import http.client
import socket
import threading
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from conftest import free_port

UPSTREAM_SECONDS = 300.0


class Fault(Enum):
    """What becomes of a request."""

    NONE = "answers"
    REFUSE = "refuse"  # nobody listens
    DELAY = "delay"  # answered when the fault ends
    BLACK_HOLE = "black hole"  # never answered
    ERROR_500 = "500"
    ERROR_503 = "503"
    CUT = "cut"  # half of the answer
    LOST_ANSWER = "answer lost after commit"  # carried out, and not answered


class ScriptedProxy:
    """Forwards requests to `upstream_port` of this machine, or does as `set_fault` says."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = free_port()
        self.fault = Fault.NONE
        self.hits = 0
        """Requests that met a fault."""
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    @property
    def uri(self) -> str:
        """The address for MLFLOW_TRACKING_URI."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ScriptedProxy":
        self._listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.set_fault(Fault.REFUSE)

    def set_fault(self, fault: Fault) -> None:
        """Treat all requests like this from now on; those that hang are closed."""
        with self._changed:
            self.fault = fault
            self._changed.notify_all()
        if fault is Fault.REFUSE:
            self._stop_listening()
        else:
            self._listen()

    def wait_for_hits(self, count: int) -> None:
        """Wait until so many requests have met a fault."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.hits >= count, UPSTREAM_SECONDS)

    def _listen(self) -> None:
        if self._server is None:
            handler = type("Handler", (_Handler,), {"proxy": self})
            self._server = _Server(("127.0.0.1", self.port), handler)
            threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def note_hit(self) -> None:
        """Count a request that met a fault."""
        with self._changed:
            self.hits += 1
            self._changed.notify_all()

    def wait_while(self, fault: Fault) -> None:
        """Wait until the fault is another one."""
        with self._changed:
            self._changed.wait_for(lambda: self.fault is not fault)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    # A connection for each request: a fault begins with the next request.
    protocol_version = "HTTP/1.0"
    proxy: ScriptedProxy

    def _handle(self) -> None:
        fault = self.proxy.fault
        body = self._read_body()
        if fault is not Fault.NONE:
            self.proxy.note_hit()

        if fault is Fault.DELAY:
            self.proxy.wait_while(fault)
        elif fault is Fault.BLACK_HOLE:
            self.proxy.wait_while(fault)
            self._drop()
            return
        elif fault is Fault.ERROR_500:
            self.send_error(500)
            return
        elif fault is Fault.ERROR_503:
            self.send_error(503)
            return
        self._forward(body, fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes, fault: Fault) -> None:
        headers = dict(self.headers.items())
        headers.pop("Transfer-Encoding", None)
        headers["Content-Length"] = str(len(body))
        upstream = http.client.HTTPConnection(
            "127.0.0.1", self.proxy.upstream_port, timeout=UPSTREAM_SECONDS
        )
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()

        if fault is Fault.LOST_ANSWER:
            self._drop()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault is Fault.CUT:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self._drop()
            return
        self.wfile.write(content)

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
