"""One 640x480 JPEG through `mlflow models serve`, against Detector in process with JPEG decoding: median times, turn about.

    python benchmarks/serving.py models:/yolox@champion ../shared/data/bccd/JPEGImages/BloodImage_00000.jpg

Starts the server itself, on 127.0.0.1. Half a minute.
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

BLOCKS, REQUESTS = 8, 15


def main(model: str, picture: str) -> None:
    """Prints both medians and their ratio."""
    data = Path(picture).read_bytes()
    body = json.dumps(
        {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(data).decode()]]}}
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        model,
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(port, server)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        detector = Detector.load(model)

        def served() -> None:
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()

        times: dict[str, list[float]] = {"served": [], "in process": []}
        for _ in range(BLOCKS):
            for name, call in (
                ("served", served),
                ("in process", lambda: detector(decode_image(data))),
            ):
                times[name] += _times(call)
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(
            ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in medians.items()), end=": "
        )
        print(f"{medians['served'] / medians['in process']:.2f} times")
    finally:
        os.killpg(server.pid, signal.SIGTERM)


def _times(call: Callable[[], object]) -> list[float]:
    call()
    values = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        call()
        values.append(time.perf_counter() - begun)
    return values


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the server ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
