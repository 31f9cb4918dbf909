r"""Measure a model in `mlflow models serve`: one client, many clients, and ten times too many.

    python benchmarks/serving.py models:/yolox-boats@champion \
        ../shared/data/bccd/JPEGImages/BloodImage_00000.jpg

Starts the server itself, on 127.0.0.1, and prints

- one request through the server beside Detector in process, which take turns (medians),
- requests a second and the latency of those answered, with 1 to 64 clients that send again at once,
- capacity: the requests a second of as many clients as the server admits; then requests that come
  at ten times this rate, whatever becomes of those before: answered a second, and the time to 503.

For the last, the clients have one processor to themselves and the server has the others, so that
what the clients cost is not counted as the server's. A minute. The model, which may be a downloaded
folder too, brings its own copy of detreg, so one that was logged by an older commit measures that
commit.
"""

import argparse
import asyncio
import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from detreg import Detector
from detreg.inference.images import decode_image

BLOCKS = 4
REQUESTS = 15
"""Of a block, after one that is not timed."""

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
CAPACITY_CLIENTS = 16
WARM_UP = 5  # seconds
OVERLOAD = 10
ROUNDS = 5

HOST = "127.0.0.1"
HEADERS = {"Content-Type": "application/json"}


@dataclass
class Load:
    """The seconds that each request took, by its status."""

    duration: float
    times: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, seconds: float) -> None:
        self.times.setdefault(status, []).append(seconds)

    def rate(self, status: int = 200) -> float:
        return len(self.times.get(status, [])) / self.duration

    def describe(self) -> str:
        parts = []
        for status, times in sorted(self.times.items()):
            ordered = sorted(times)
            p99 = ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]
            parts.append(
                f"{status}: {self.rate(status):7.1f}/s, median "
                f"{1000 * statistics.median(ordered):6.1f} ms, p99 {1000 * p99:6.1f} ms"
            )
        return "   ".join(parts)


class Connection:
    """A connection that is kept open, as http.client's but for asyncio."""

    def __init__(self, port: int, request: bytes) -> None:
        self.port = port
        self.request = request
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self) -> int:
        """Send the request and return the status of its answer, 0 if there is none."""
        try:
            return await self._send()
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0

    async def _send(self) -> int:
        if self.streams is None:
            self.streams = await asyncio.open_connection(HOST, self.port)
        reader, writer = self.streams
        writer.write(self.request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        lines = head.split(b"\r\n")
        length = next(line for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        if b"connection: close" in lines:
            self.close()
        return int(lines[0].split()[1])

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def load_closed(port: int, request: bytes, clients: int, seconds: float) -> Load:
    """Have clients send again as soon as they are answered, whatever the answer is."""
    load = Load(seconds)
    end = time.perf_counter() + seconds

    async def run_client() -> None:
        connection = Connection(port, request)
        while time.perf_counter() < end:
            begun = time.perf_counter()
            status = await connection.send()
            load.add(status, time.perf_counter() - begun)
        connection.close()

    await asyncio.gather(*(run_client() for _ in range(clients)))
    return load


async def load_open(port: int, request: bytes, rate: float, seconds: float) -> Load:
    """Send requests at a rate, without waiting for the answers."""
    load = Load(seconds)
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def send_one() -> None:
        connection = idle.pop() if idle else Connection(port, request)
        begun = time.perf_counter()
        status = await connection.send()
        load.add(status, time.perf_counter() - begun)
        idle.append(connection)

    begun = time.perf_counter()
    sent = 0
    while (now := time.perf_counter()) < begun + seconds:
        while sent < (now - begun) * rate:
            sent += 1
            task = asyncio.create_task(send_one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    print(f"  sent {sent / seconds:.0f}/s")
    return load


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--only", choices=["detector", "clients", "overload"])
    arguments = parser.parse_args()

    data = Path(arguments.image).read_bytes()
    text = base64.b64encode(data).decode()
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[text]]}})

    request = make_request(body)
    if arguments.only != "overload":
        with serve(arguments.model, request, os.sched_getaffinity(0)) as port:
            if arguments.only != "clients":
                compare_with_detector(port, body, arguments.model, data)
            if arguments.only != "detector":
                measure_clients(port, request, arguments.seconds)
    if arguments.only in (None, "overload"):
        with serve(arguments.model, request, take_one_processor()) as port:
            measure_overload(port, request, arguments.seconds)


def compare_with_detector(port: int, body: str, model: str, data: bytes) -> None:
    connection = http.client.HTTPConnection(HOST, port)
    is_folder = Path(model).is_dir()
    detector = Detector.load(next(Path(model).glob("artifacts/*.onnx")) if is_folder else model)

    def request() -> None:
        connection.request("POST", "/invocations", body, HEADERS)
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content

    def detect() -> None:
        detector(decode_image(data))

    served_times: list[float] = []
    own_times: list[float] = []
    for _ in range(BLOCKS):
        served_times += measure(request)
        own_times += measure(detect)
    served = statistics.median(served_times)
    own = statistics.median(own_times)
    print(
        f"served {1000 * served:.1f} ms, in process {1000 * own:.1f} ms: {served / own:.2f} times",
        flush=True,
    )


def make_request(body: str) -> bytes:
    data = body.encode()
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def measure_clients(port: int, request: bytes, seconds: float) -> None:
    for clients in CLIENTS:
        load = asyncio.run(load_closed(port, request, clients, seconds))
        print(f"{clients:3} clients  {load.describe()}", flush=True)


def measure_overload(port: int, request: bytes, seconds: float) -> None:
    """Alternate capacity and overload, since what else the machine does changes."""
    shares = []
    for _ in range(ROUNDS):
        capacity = asyncio.run(load_closed(port, request, CAPACITY_CLIENTS, seconds)).rate()
        load = asyncio.run(load_open(port, request, OVERLOAD * capacity, seconds))
        shares.append(load.rate() / capacity)
        print(f"capacity {capacity:.1f}/s; at {OVERLOAD} times that  {load.describe()}", flush=True)
    print(f"answered {statistics.median(shares):.2f} of capacity (median of {ROUNDS})")


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def take_one_processor() -> set[int]:
    """Move this process to the last processor; return the others, or all where there is one."""
    processors = os.sched_getaffinity(0)
    if len(processors) == 1:
        return processors
    own = {max(processors)}
    os.sched_setaffinity(0, own)
    return processors - own


@contextmanager
def serve(model: str, request: bytes, processors: set[int]) -> Iterator[int]:
    """Serve a model on some processors; yield the port of a server that has answered a while."""
    port = find_free_port()
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    command += ["-h", HOST, "-p", str(port)]
    # A session of its own, so that its workers are ended with it.
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    # Before it starts threads, which are as many as there are processors then.
    os.sched_setaffinity(server.pid, processors)
    try:
        wait_for_server(port, server)
        # The first batches of each size are compared with single runs.
        asyncio.run(load_closed(port, request, CAPACITY_CLIENTS, WARM_UP))
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)


def wait_for_server(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://{HOST}:{port}/ping", timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the server ended")


def measure(call: Callable[[], None]) -> list[float]:
    """Return the seconds of each of a block's calls."""
    call()
    seconds = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    main()
