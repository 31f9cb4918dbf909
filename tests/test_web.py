"""Opening URLs: addresses at every redirect, schemes, sizes and rates."""

import base64
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from detreg import web
from detreg.addresses import ALLOW_VARIABLE, connect_checked
from detreg.errors import DataError, DetregError, RefusedError, UnreachableError
from detreg.web import Pace, open_url

CONTENT = b"0123456789" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    """Does what the path says."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[str]] = []
    logins: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        self.logins.append(self.headers["Authorization"])
        verb, _, argument = self.path.removeprefix("/").partition("/")
        if verb == "redirect":
            self.send_response(302)
            self.send_header("Location", argument)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif verb == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(CONTENT), 1000):
                self.wfile.write(b"3e8\r\n" + CONTENT[start : start + 1000] + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif verb == "nonsense":
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
            self.close_connection = True
        else:
            self.send_response(200)
            self.send_header("Content-Length", argument or str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a server, allow its address, and return it."""
    monkeypatch.setenv(ALLOW_VARIABLE, "1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Handler.requests.clear()
    Handler.logins.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def read(url: str, max_bytes: int = web.MAX_BYTES) -> bytes:
    with open_url(url, max_bytes) as response:
        return b"".join(response.read_blocks())


def test_file_is_read_also_in_chunks_and_behind_a_redirect(server: str) -> None:
    assert read(f"{server}/file") == CONTENT
    assert read(f"{server}/chunked") == CONTENT
    assert read(f"{server}/redirect/{server}/file") == CONTENT


def test_private_address_is_refused_before_anything_is_sent(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE)
    with pytest.raises(RefusedError, match=r"127\.0\.0\.1, which is not a public one"):
        read(f"{server}/file")
    assert Handler.requests == []


def test_redirect_to_a_private_address_is_refused(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE)
    connect = socket.create_connection

    def connect_to_public_name(host: str, port: int, timeout: float) -> socket.socket:
        """Let the test's server stand for a public one under one name only."""
        if host == "public.example":
            return connect(("127.0.0.1", port), timeout)
        return connect_checked(host, port, timeout)

    monkeypatch.setattr("detreg.web.connect_checked", connect_to_public_name)
    public = server.replace("127.0.0.1", "public.example")
    assert read(f"{public}/file") == CONTENT

    Handler.requests.clear()
    with pytest.raises(RefusedError, match=r"127\.0\.0\.1, which is not a public one"):
        read(f"{public}/redirect/{server}/file")
    assert len(Handler.requests) == 1


def test_login_of_netrc_reaches_its_host_alone(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    port = server.rpartition(":")[2]
    monkeypatch.setattr(
        "detreg.web.connect_checked",
        lambda host, port, timeout: socket.create_connection(("127.0.0.1", int(port)), timeout),  # noqa: ARG005
    )

    assert read(f"{server}/redirect/{server}/file") == CONTENT
    assert read(f"{server}/redirect/http://other.example:{port}/file") == CONTENT
    login = "Basic " + base64.b64encode(b"me:canary").decode()
    assert Handler.logins == [login, login, login, None]


@pytest.mark.parametrize("target", ["ftp://example.org/x", "file:///etc/passwd", "data:,x"])
def test_other_schemes_are_refused(target: str, server: str) -> None:
    for url in (target, f"{server}/redirect/{target}"):
        with pytest.raises(DetregError) as caught:
            read(url)
        assert isinstance(caught.value, RefusedError)
        assert "only http and https" in str(caught.value)


@pytest.mark.parametrize("path", ["file", "chunked", "file/9000000000000"])
def test_file_over_the_limit_is_refused(path: str, server: str) -> None:
    with pytest.raises(DataError, match=r"more than 7\.812 KiB"):
        read(f"{server}/{path}", max_bytes=8000)


def test_answers_that_are_not_http_are_unreachable(server: str) -> None:
    for url in (f"{server}/nonsense", f"{server}/file/20000", "http://a:b/", "http://[::/"):
        with pytest.raises(UnreachableError):
            read(url)


def test_slow_server_is_given_up(server: str) -> None:
    # Each look at the clock finds that 100 seconds have passed; a read gets 8 KiB at most.
    seconds = iter(range(0, 1_000_000, 100))
    pace = Pace(grace=60, rate=1000)
    with (
        pytest.raises(UnreachableError, match=r"too slow \(.* in 100 s\)"),
        open_url(f"{server}/file", pace=pace, clock=lambda: next(seconds)),
    ):
        pass


def test_proxy_of_the_environment_is_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE)
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.delenv("no_proxy", raising=False)
    assert read("http://weights.example/file") == CONTENT
    with pytest.raises(RefusedError):
        read("http://169.254.169.254/latest")
    assert Handler.requests == ["http://weights.example/file"]
