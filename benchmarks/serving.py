r"""Compare one 640x480 JPEG through `mlflow models serve` with Detector in process.

    python benchmarks/serving.py models:/yolox@champion \
        ../shared/data/bccd/JPEGImages/BloodImage_00000.jpg

Both decode the JPEG; they take turns, and medians are compared. Starts the server itself, on
127.0.0.1. Half a minute.
"""

import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from detreg import Detector
from detreg.inference.images import decode_image

BLOCKS = 8
REQUESTS = 15
"""Of a block, after one that is not timed."""

HOST = "127.0.0.1"
HEADERS = {"Content-Type": "application/json"}


def main(model: str, image: str) -> None:
    """Print both medians and their ratio."""
    data = Path(image).read_bytes()
    text = base64.b64encode(data).decode()
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[text]]}})

    port = find_free_port()
    server = start_server(model, port)
    try:
        wait_for_server(port, server)
        connection = http.client.HTTPConnection(HOST, port)
        detector = Detector.load(model)

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
    finally:
        os.killpg(server.pid, signal.SIGTERM)

    served = statistics.median(served_times)
    own = statistics.median(own_times)
    print(
        f"served {1000 * served:.1f} ms, in process {1000 * own:.1f} ms: {served / own:.2f} times"
    )


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def start_server(model: str, port: int) -> subprocess.Popen[bytes]:
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    command += ["-h", HOST, "-p", str(port)]
    # A session of its own, so that its workers are ended with it.
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


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
    main(*sys.argv[1:])
