"""Opens URLs of files: addresses are checked; sizes, times and redirects are bounded.

`open_url` is the only place where detreg itself follows a URL. urllib speaks the protocol, over
connections that `connect_checked` makes and through responses that measure what they receive.
"""

import base64
import http.client
import io
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

from requests.utils import get_netrc_auth

from detreg.addresses import check_stated_address, connect_checked
from detreg.errors import DataError, RefusedError, UnreachableError, summarize_error
from detreg.files import format_bytes

MAX_BYTES = 8 << 30
"""Most bytes of a file: several times the largest published checkpoint."""

Clock = Callable[[], float]
"""Returns seconds since an arbitrary moment."""

_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Pace:
    """How slow a server may be.

    silence: the longest time without a byte, in seconds.
    grace: the time after which the rate counts, in seconds.
    rate: the lowest mean rate, in bytes a second.
    total: the longest time of one response, in seconds.
    """

    silence: float = 60
    grace: float = 60
    rate: float = 16 << 10
    total: float = 4 * 3600


@dataclass(frozen=True)
class Response:
    """The answer of a server, of which no more than `max_bytes` are accepted."""

    url: str
    http: http.client.HTTPResponse
    max_bytes: int

    def read_blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the file. Raises DataError, UnreachableError and OSError."""
        # None where the server states no size, or something that is no number.
        expected = self.http.length
        self._check_size(expected or 0)

        received = 0
        while received != expected:
            with _translate_protocol_errors(self.url):
                # `read` would wait until a whole block is there.
                block = self.http.read1(_BLOCK)
            if not block:
                break
            received += len(block)
            self._check_size(received)
            yield block

        if expected is not None and received != expected:
            raise UnreachableError(f"{self.url} was cut off after {received} of {expected} bytes")

    def _check_size(self, count: int) -> None:
        if count > self.max_bytes:
            raise DataError(
                f"{self.url}: the file has more than {format_bytes(self.max_bytes)}, the most that "
                "is downloaded; download it yourself and give its path"
            )


@contextmanager
def open_url(
    url: str,
    max_bytes: int = MAX_BYTES,
    pace: Pace | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Response]:
    """Open a URL of http or https; at most ten redirects are followed.

    The environment variables http_proxy, https_proxy and no_proxy are obeyed. A proxy looks names
    up by itself, so that only addresses that the URL states are checked then. Logins come from
    ~/.netrc, or the file that the variable NETRC names.

    Raises RefusedError for another scheme and for an address that is not public, UnreachableError
    for an answer that is too slow or not HTTP, and URLError and HTTPError of urllib, which are
    OSErrors.
    """
    pace = pace or Pace()
    with _translate_protocol_errors(url):
        _check_scheme(url)
        response = _make_opener(pace, clock).open(url, timeout=pace.silence)
    with response:
        yield Response(url, response, max_bytes)


@contextmanager
def _translate_protocol_errors(url: str) -> Iterator[None]:
    """Turn what http.client raises for an answer that is not HTTP into UnreachableError."""
    try:
        yield
    # A URL with a port that is no number, or a name that cannot be looked up, is a ValueError.
    except (http.client.HTTPException, ValueError) as error:
        reason = summarize_error(error)[:200]
        raise UnreachableError(f"{url} cannot be downloaded ({reason}); check the URL") from error


def _check_scheme(url: str) -> None:
    """Raise RefusedError for a scheme such as file or ftp, which a redirect may name, too."""
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise RefusedError(f"{url}: only http and https are followed, not {scheme or 'this'}")


def _make_opener(pace: Pace, clock: Clock) -> urllib.request.OpenerDirector:
    """Return an opener that knows http and https, and neither files, ftp nor data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _CheckingHandler(pace, clock),
        _LoginHandler(),
        _RedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _LoginHandler(urllib.request.BaseHandler):
    """Adds to each request the user name and password that ~/.netrc has for its host."""

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        """Return the request with its login."""
        login = get_netrc_auth(request.full_url)
        if login is not None:
            encoded = base64.b64encode(":".join(login).encode()).decode()
            # Not redirected: another host must not get it.
            request.add_unredirected_header("Authorization", f"Basic {encoded}")
        return request

    https_request = http_request


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only; urllib would follow one to ftp."""

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any:
        """Follow a redirect."""
        target = urljoin(req.full_url, headers.get("location", ""))
        _check_scheme(target)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _CheckingHandler(urllib.request.AbstractHTTPHandler):
    """Sends requests through connections to checked addresses, and measures the responses."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        super().__init__()
        self._pace = pace
        self._clock = clock

    # OpenerDirector calls the methods with these names.
    http_request = urllib.request.AbstractHTTPHandler.do_request_
    https_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Return the response to a request."""
        return self._open(http.client.HTTPConnection, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Return the response to a request."""
        return self._open(http.client.HTTPSConnection, req)

    def _open(
        self, connection_class: type[http.client.HTTPConnection], request: urllib.request.Request
    ) -> http.client.HTTPResponse:
        target = urlsplit(request.full_url)
        is_proxied = request.host != target.netloc
        if is_proxied:
            check_stated_address(target.hostname or "")

        def make_connection(host: str, **options: Any) -> http.client.HTTPConnection:
            connection: Any = connection_class(host, **options)
            connection.response_class = partial(
                _MeasuredResponse, pace=self._pace, clock=self._clock
            )
            if not is_proxied:
                # What http.client calls with (host, port), the timeout and a source address.
                connection._create_connection = _create_connection
            return connection

        return self.do_open(make_connection, request)


def _create_connection(address: tuple[str, int], timeout: float, *_: object) -> object:
    return connect_checked(*address, timeout)


class _MeasuredResponse(http.client.HTTPResponse):
    """A response that is given up when it comes too slowly, its header included."""

    def __init__(self, sock: Any, *, pace: Pace, clock: Clock, **options: Any) -> None:
        super().__init__(sock, **options)
        stream = self.fp.detach()
        self.fp = io.BufferedReader(_MeasuredStream(stream, pace, clock))


class _MeasuredStream(io.RawIOBase):
    """What comes through a socket. Reading raises UnreachableError when it comes too slowly."""

    def __init__(self, stream: io.RawIOBase, pace: Pace, clock: Clock) -> None:
        self._stream = stream
        self._pace = pace
        self._clock = clock
        self._start = clock()
        self._received = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read at most a bufferful and return the number of bytes, 0 at the end."""
        count = self._stream.readinto(buffer)
        self._received += count or 0

        elapsed = self._clock() - self._start
        is_slow = elapsed > self._pace.grace and self._received < elapsed * self._pace.rate
        if is_slow or elapsed > self._pace.total:
            raise UnreachableError(
                f"the server is too slow ({format_bytes(self._received)} in {elapsed:.0f} s); try "
                "again later, or download the file yourself and give its path"
            )
        return count

    def close(self) -> None:
        """Close the socket's stream."""
        self._stream.close()
        super().close()
