"""The layer in front of MLflow's server, without a server: what it holds, and when it lets go."""

import asyncio
import json
import threading
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

import pytest

from detreg.serving.errors import BadRequest
from detreg.serving.limits import Limits
from detreg.serving.middleware import InvocationLayer

Message = MutableMapping[str, Any]
LIMITS = Limits(max_requests=2, max_body_bytes=10)
LONG = 600.0


class Exchange:
    """One request to a layer, message by message."""

    def __init__(self, layer: InvocationLayer, path: str = "/invocations", **headers: str) -> None:
        self.sent: list[Message] = []
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        encoded = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        scope = {"type": "http", "method": "POST", "path": path, "headers": encoded}
        self.task = asyncio.create_task(layer(self._fail, scope, self.messages.get, self._send))

    async def _fail(self, *_: object) -> None:
        raise AssertionError("MLflow's app was called")

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    def post(self, body: bytes, *, more: bool = False) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def read(self) -> tuple[int, str]:
        """Wait for the answer and return its status and its message, or the answer itself."""
        await self.task
        start, body = self.sent
        content = json.loads(body["body"])
        text = content["message"] if isinstance(content, dict) else content
        return start["status"], text


def echo(body: bytes, content_type: str, query: str) -> bytes:
    return json.dumps(f"{content_type} {body.decode()}{query}").encode()


def test_a_body_in_parts_is_answered() -> None:
    async def check() -> None:
        exchange = Exchange(InvocationLayer(echo, LIMITS, LONG), content_type="text/csv")
        exchange.post(b"ab", more=True)
        exchange.post(b"cd")
        assert await exchange.read() == (200, "text/csv abcd")

    asyncio.run(check())


@pytest.mark.parametrize("path", ["/ping", "/", "/invocations\n", "/invocations/", "/docs"])
def test_nothing_else_can_be_posted(path: str) -> None:
    async def check() -> None:
        status, _ = await Exchange(InvocationLayer(echo, LIMITS, LONG), path).read()
        assert status == 404

    asyncio.run(check())


def test_a_body_that_is_too_large_is_refused_as_declared_or_as_it_comes() -> None:
    async def check() -> None:
        layer = InvocationLayer(echo, LIMITS, LONG)
        declared = Exchange(layer, content_length="11")
        assert (await declared.read())[0] == 413

        for _ in range(5):
            arriving = Exchange(layer)
            arriving.post(b"123456", more=True)
            arriving.post(b"78901", more=True)
            assert (await arriving.read())[0] == 413

        # What the refused ones held has been released.
        exchanges = [Exchange(layer) for _ in range(2)]
        for exchange in exchanges:
            exchange.post(b"1234567890")
        assert [(await exchange.read())[0] for exchange in exchanges] == [200, 200]

    asyncio.run(check())


def test_bodies_that_arrive_together_are_bounded_too() -> None:
    async def check() -> None:
        layer = InvocationLayer(echo, LIMITS, LONG)
        slow = [Exchange(layer), Exchange(layer)]
        for exchange in slow:
            exchange.post(b"123456789", more=True)
        while not all(exchange.messages.empty() for exchange in slow):
            await asyncio.sleep(0)

        third = Exchange(layer)
        third.post(b"123")
        assert (await third.read())[0] == 503

        # A client that goes away releases its part.
        slow[0].messages.put_nowait({"type": "http.disconnect"})
        await slow[0].task
        assert slow[0].sent == []
        fourth = Exchange(layer)
        fourth.post(b"123")
        assert (await fourth.read())[0] == 200
        slow[1].post(b"")
        assert (await slow[1].read())[0] == 200

    asyncio.run(check())


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    async def check() -> None:
        exchange = Exchange(InvocationLayer(echo, LIMITS, timeout=0.01))
        exchange.post(b"1", more=True)
        assert (await exchange.read())[0] == 408

    asyncio.run(check())


def test_a_request_counts_until_its_thread_ends() -> None:
    is_open = threading.Event()

    def hold(body: bytes, content_type: str, query: str) -> bytes:
        assert is_open.wait(LONG)
        return echo(body, content_type, query)

    async def check() -> None:
        layer = InvocationLayer(hold, LIMITS, timeout=0.01)
        exchanges = [Exchange(layer), Exchange(layer)]
        for exchange in exchanges:
            exchange.post(b"1")
        assert [(await exchange.read())[0] for exchange in exchanges] == [504, 504]

        third = Exchange(layer)
        status, text = await third.read()
        assert (status, text) == (503, "2 requests are waiting already: try again in a second")
        assert (b"retry-after", b"1") in third.sent[0]["headers"]

        is_open.set()
        while (await post(layer))[0] == 503:
            await asyncio.sleep(0.01)

    async def post(layer: InvocationLayer) -> tuple[int, str]:
        exchange = Exchange(layer)
        exchange.post(b"1")
        return await exchange.read()

    try:
        asyncio.run(check())
    finally:
        is_open.set()


def test_errors_are_one_line_and_only_the_servers_own_are_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(body: bytes, content_type: str, query: str) -> bytes:
        if body == b"wrong":
            raise BadRequest("it is wrong", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        raise ValueError("a secret")

    async def check() -> None:
        layer = InvocationLayer(fail, LIMITS, LONG)
        answers = []
        for body in (b"wrong", b"right"):
            exchange = Exchange(layer)
            exchange.post(body)
            answers.append(await exchange.read())
        assert answers[0] == (415, "it is wrong")
        assert answers[1] == (500, "The server failed on this request; its log says why")

    asyncio.run(check())
    assert "a secret" in caplog.text
