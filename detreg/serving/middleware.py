"""The ASGI layer between uvicorn and MLflow's scoring server.

MLflow's own handler of /invocations has no limits: it reads bodies of any size, queues requests
without end, and answers 500 to many that are only malformed. This layer answers them in its place.
All that is only read is left to MLflow (/ping, /health, /version), but for the server's own pages.

A request that is not answered gets, as JSON, `error_code` and `message`, one line. Statuses:

    400  it is wrong                     413  its body is too large
    404  it is for another path          415  its body is of another type
    408  its body did not arrive         500  the server failed; its log says why
    503  too many wait: Retry-After      504  it took too long
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from detreg.serving.errors import BadRequest
from detreg.serving.limits import Limits
from detreg.serving.pages import Page

_LOG = logging.getLogger(__name__)
_READING_METHODS = ("GET", "HEAD", "OPTIONS")
_ERROR_CODES = {
    HTTPStatus.SERVICE_UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL_ERROR",
    HTTPStatus.GATEWAY_TIMEOUT: "TEMPORARILY_UNAVAILABLE",
}

# The types of ASGI; a scope and a message are dicts by its specification.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Answer = Callable[[bytes, str, str], bytes]
"""Answers a body, of this Content-Type and with this query, with JSON. Raises BadRequest."""


@dataclass(frozen=True)
class _Response:
    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


class _RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.response = _make_error(status, reason)


class _DisconnectError(Exception):
    """The client went away before its request was complete."""


@dataclass
class _Body:
    """The body of a request, as far as it has arrived."""

    chunks: list[bytes] = field(default_factory=list)
    num_bytes: int = 0


class InvocationLayer:
    """Answers POST /invocations within limits; everything else that is posted gets 404.

    `pages` are those that can be read, by their paths.

    A request counts from when its body is complete until its thread ends, which may be after its
    client got 504 or went away. All that counts has a thread, so nothing waits unseen, and the
    network runs one batch after another (detreg/serving/batching.py).
    """

    def __init__(
        self,
        answer: Answer,
        limits: Limits,
        timeout: float,
        pages: Mapping[str, Page] = MappingProxyType({}),
    ) -> None:
        self._answer = answer
        self._pages = pages
        self._limits = limits
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(limits.max_requests, "detreg-invocation")
        self._num_requests = 0
        self._num_held_bytes = 0

    async def __call__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have `app` do it."""
        if scope["type"] != "http" or scope["method"] in _READING_METHODS:
            page = self._pages.get(scope.get("path", ""))
            if page is None or scope["method"] == "OPTIONS":
                await app(scope, receive, send)
            else:
                await _send_response(send, _make_page_response(page))
            return
        try:
            response = await self._respond(scope, receive)
        except _RefusalError as refusal:
            response = refusal.response
        except _DisconnectError:
            return
        await _send_response(send, response)

    async def _respond(self, scope: Scope, receive: Receive) -> _Response:
        # What comes before the path depends on the proxy.
        if not scope["path"].endswith("/invocations"):
            raise _RefusalError(HTTPStatus.NOT_FOUND, "POST requests to /invocations")
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.max_body_bytes:
            raise self._make_too_large()
        self._refuse_overload()

        body = _Body()
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._receive_body(body, receive)
            except TimeoutError as error:
                reason = f"The body did not arrive within {self._timeout:.0f} s"
                raise _RefusalError(HTTPStatus.REQUEST_TIMEOUT, reason) from error
            self._refuse_overload()
        except BaseException:
            self._num_held_bytes -= body.num_bytes
            raise
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        query = scope.get("query_string", b"").decode("latin-1")
        return await self._run(body, content_type, query)

    def _refuse_overload(self) -> None:
        if self._num_requests >= self._limits.max_requests:
            raise _RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._num_requests} requests are waiting already: try again in a second",
            )

    def _make_too_large(self) -> _RefusalError:
        return _RefusalError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The body has more than {self._limits.max_body_bytes} bytes: send fewer or smaller "
            "images",
        )

    async def _receive_body(self, body: _Body, receive: Receive) -> None:
        """Add what arrives to the body until it is complete."""
        is_complete = False
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _DisconnectError
            chunk = message.get("body", b"")
            body.chunks.append(chunk)
            body.num_bytes += len(chunk)
            self._num_held_bytes += len(chunk)
            if body.num_bytes > self._limits.max_body_bytes:
                raise self._make_too_large()
            if self._num_held_bytes > self._limits.max_held_bytes:
                reason = "Other requests fill the memory for bodies: try again in a second"
                raise _RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, reason)
            is_complete = not message.get("more_body", False)

    async def _run(self, body: _Body, content_type: str, query: str) -> _Response:
        """Answer a complete body in a thread; what it holds is released when the thread ends."""
        self._num_requests += 1
        data = b"".join(body.chunks)
        body.chunks.clear()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(
            self._threads, self._answer_in_thread, data, content_type, query
        )

        def release(_: object) -> None:
            self._num_requests -= 1
            self._num_held_bytes -= body.num_bytes

        running.add_done_callback(release)
        try:
            return await asyncio.wait_for(asyncio.shield(running), self._timeout)
        except TimeoutError as error:
            reason = f"The request took more than {self._timeout:.0f} s"
            raise _RefusalError(HTTPStatus.GATEWAY_TIMEOUT, reason) from error

    def _answer_in_thread(self, body: bytes, content_type: str, query: str) -> _Response:
        try:
            return _Response(HTTPStatus.OK, self._answer(body, content_type, query))
        except BadRequest as error:
            return _make_error(error.status, str(error))
        except Exception:
            _LOG.exception("The request failed")
            return _make_error(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "The server failed on this request; its log says why",
            )


def _make_error(status: HTTPStatus, reason: str) -> _Response:
    """Return an error in the form of MLflow's."""
    content = {"error_code": _ERROR_CODES.get(status, "BAD_REQUEST"), "message": reason}
    is_overloaded = status == HTTPStatus.SERVICE_UNAVAILABLE
    headers = ((b"retry-after", b"1"),) if is_overloaded else ()
    return _Response(status, json.dumps(content).encode(), headers)


def _make_page_response(page: Page) -> _Response:
    headers = (
        (b"content-security-policy", page.policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        # After an update of the model its facts, and after one of detreg its pages, are others.
        (b"cache-control", b"no-cache"),
    )
    return _Response(HTTPStatus.OK, page.body, headers, page.content_type.encode())


async def _send_response(send: Send, response: _Response) -> None:
    length = str(len(response.body)).encode()
    headers = [(b"content-type", response.content_type), (b"content-length", length)]
    headers += response.headers
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
