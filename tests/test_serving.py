"""The served model, over HTTP, in a real `mlflow models serve` process."""

import base64
import contextlib
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import HTTPConnection, HTTPSConnection
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from random import Random

import mlflow
import mlflow.models.cli
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from conftest import free_port
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from toy_detector import draw_image, encode_image, write_toy_model

from detreg.errors import DataError, NotFoundError, RefusedError, UnreachableError
from detreg.inference import images
from detreg.inference.detector import Detector
from detreg.serving.packaging import log_model

JPEG = encode_image(draw_image(128, 96, (32, 16, 64, 48)), ".jpg")
TEXT = base64.b64encode(JPEG).decode()
JSON = "application/json"
PARQUET = "application/vnd.apache.parquet"
PART = (
    b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + JPEG + b"\r\n"
)
FORM_OF_TWO = PART + PART + b"--xyz--\r\n"
ORIGIN = "https://shop.example"
ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


class LoggedModel:
    """A toy model, logged in an MLflow store of its own and downloaded from there."""

    def __init__(self, folder: Path) -> None:
        self.onnx = write_toy_model(folder / "toy.onnx")
        self.store = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(self.store)
        mlflow.create_experiment("toys", artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment("toys")
        with mlflow.start_run() as run:
            self.uri = log_model(self.onnx).model_uri
        self.run_id = run.info.run_id
        self.folder = Path(mlflow.artifacts.download_artifacts(self.uri))


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggedModel]:
    before = mlflow.get_tracking_uri()
    yield LoggedModel(tmp_path_factory.mktemp("served"))
    mlflow.set_tracking_uri(before)


GATE = """

# Added by the tests: while the file `closed` exists, a request leaves a file and waits.
import pathlib, time, uuid
_answer = ServedDetector.answer

def _answer_through_gate(self, body, content_type, query):
    folder = pathlib.Path(os.environ["GATE"])
    if (folder / "closed").exists():
        (folder / f"waits-{uuid.uuid4()}").touch()
        while (folder / "closed").exists():
            time.sleep(0.01)
    return _answer(self, body, content_type, query)

ServedDetector.answer = _answer_through_gate
"""

MAX_REQUESTS = 3


class Gate:
    """Holds the requests that have been admitted to a server, as long as it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def close(self) -> None:
        for file in self.folder.glob("waits-*"):
            file.unlink()
        (self.folder / "closed").touch()

    def open(self) -> None:
        (self.folder / "closed").unlink(missing_ok=True)

    def wait_for(self, count: int) -> None:
        """Wait until so many requests stand before the gate."""
        deadline = time.monotonic() + 600
        while len(list(self.folder.glob("waits-*"))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def port(
    logged: LoggedModel, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """Serve the logged model with a gate in front of it and small limits; returns the port."""
    number = free_port()
    model = tmp_path_factory.mktemp("gated") / "model"
    shutil.copytree(logged.folder, model)
    with (model / "model.py").open("a") as code:
        code.write(GATE)

    # MLflow looks uvicorn up in PATH, as after activating the environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "MLFLOW_TRACKING_URI": logged.store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GATE": str(gate.folder),
        "DETREG_SERVE_MAX_REQUESTS": str(MAX_REQUESTS),
        "DETREG_SERVE_MAX_BODY_MB": "1",
        "DETREG_SERVE_MAX_IMAGES": "9",
        "DETREG_SERVE_MAX_MEGAPIXELS": "1",
        "DETREG_SERVE_CORS": ORIGIN,
    }
    serve = ["-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    command = [sys.executable, *serve, "-h", "127.0.0.1", "-p", str(number)]
    with (tmp_path_factory.mktemp("server") / "log").open("w+") as log:
        server = subprocess.Popen(command, env=environment, cwd=model, stdout=log, stderr=log)
        try:
            _wait_until_ready(server, number, Path(log.name))
            yield number
        finally:
            server.terminate()
            server.wait(300)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    # The deadline is there for a server that hangs, not for a slow machine.
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def post(port: int, body: object, content_type: str = JSON, query: str = "") -> tuple[int, str]:
    """Send a request and return its status and text; a body that is not bytes is sent as JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", f"/invocations{query}", data, {"Content-Type": content_type})
    response = connection.getresponse()
    return response.status, response.read().decode()


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, str, Message]:
    """Send a request without a body and return its status, text and headers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=named)
    response = connection.getresponse()
    return response.status, response.read().decode(), response.headers


def to_parquet(values: list[bytes]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame({"image": values}).to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ({"dataframe_split": {"columns": ["image"], "data": [[TEXT], [TEXT]]}}, JSON),
        (
            {"dataframe_records": [{"image": TEXT}, {"image": base64.encodebytes(JPEG).decode()}]},
            JSON,
        ),
        ({"inputs": [TEXT, TEXT]}, JSON),
        ({"inputs": {"image": [TEXT, TEXT]}}, JSON),
        ({"inputs": [{"image": TEXT}, {"image": TEXT}]}, "application/json; charset=utf-8"),
        ({"instances": [TEXT, TEXT]}, JSON),
        ({"instances": [{"image": TEXT}, {"image": TEXT}]}, JSON),
        (to_parquet([JPEG, JPEG]), PARQUET),
        ({"inputs": [f"data:image/jpeg;base64,{TEXT}"]}, JSON),
        (JPEG, "image/jpeg"),
        (FORM_OF_TWO, "multipart/form-data; boundary=xyz"),
    ],
)
def test_every_form_of_the_request_gives_what_the_detector_gives(
    logged: LoggedModel, port: int, body: object, content_type: str
) -> None:
    status, text = post(port, body, content_type)
    assert status == 200, text
    expected = Detector.load(logged.onnx)(images.decode_image(JPEG))
    for row in json.loads(text)["predictions"]:
        np.testing.assert_allclose(row["boxes"], expected.boxes)
        np.testing.assert_allclose(row["scores"], expected.scores)
        assert row["labels"] == expected.labels.tolist() == [0, 1]
        assert row["class_names"] == ["boat", "buoy"]


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({}, 2),
        ({"max_detections": 1}, 1),
        ({"score_threshold": 0.9}, 1),
        ({"score_threshold": 0, "max_detections": 9}, 2),
    ],
)
def test_params_limit_the_detections(port: int, params: dict[str, float], count: int) -> None:
    _, text = post(port, {"dataframe_records": [{"image": TEXT}], "params": params})
    (row,) = json.loads(text)["predictions"]
    assert list(row) == ["boxes", "scores", "labels", "class_names"]
    assert len(row["boxes"]) == count


def test_the_query_of_the_url_has_params_for_every_form(port: int) -> None:
    for body, content_type in ((JPEG, "image/jpeg"), (to_parquet([JPEG]), PARQUET), (RECORD, JSON)):
        status, text = post(port, body, content_type, "?score_threshold=0.9")
        assert (status, len(json.loads(text)["predictions"][0]["boxes"])) == (200, 1)
    status, text = post(port, JPEG, "image/jpeg", "?threshold=0.9")
    assert (status, "unknown params 'threshold'" in text) == (400, True)
    check_one_line(text)


def test_strangers_images_and_forms_are_within_the_same_limits(port: int) -> None:
    bomb = encode_image(draw_image(2000, 1000, (0, 0, 9, 9)))
    nine_more = PART * 10 + b"--xyz--\r\n"
    bodies = [
        (bomb, "image/png", 400, "2 megapixels together: send at most 1"),
        (JPEG[:-200], "image/jpeg", 400, "row 0: the image cannot be used"),
        (b"<svg/>", "image/svg+xml", 400, "row 0: the bytes (6 of them) are not an image"),
        (b"", "image/jpeg", 400, "row 0: the bytes (0 of them) are not an image"),
        (b" " * (2**20 + 1), "image/jpeg", 413, "more than 1048576 bytes"),
        (nine_more, "multipart/form-data; boundary=xyz", 400, "has 10 rows: send at most 9"),
        (FORM_OF_TWO[:-8], "multipart/form-data; boundary=xyz", 400, "does not end"),
    ]
    for body, content_type, expected, reason in bodies:
        status, text = post(port, body, content_type)
        assert (status, reason in text) == (expected, True), text
        check_one_line(text)


def test_cors_is_answered_for_the_origin_that_is_allowed_only(port: int) -> None:
    def preflight(origin: str) -> tuple[int, str | None]:
        status, _, headers = ask(
            port,
            "OPTIONS",
            "/invocations",
            Origin=origin,
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="content-type",
        )
        return status, headers["Access-Control-Allow-Origin"]

    assert preflight(ORIGIN) == (200, ORIGIN)
    assert preflight("https://evil.example") == (400, None)

    for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
        # A refusal can be read as well as an answer.
        status, _, headers = ask(port, "POST", "/invocations", Origin=origin)
        assert (status, headers["Access-Control-Allow-Origin"]) == (415, allowed)


def test_the_server_describes_itself(logged: LoggedModel, port: int) -> None:
    status, text, headers = ask(port, "GET", "/docs")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for shown in ("boat, buoy", "image/*", "max_detections", "MiB of a body", ORIGIN):
        assert shown in text

    status, text, _ = ask(port, "GET", "/model.json")
    facts = json.loads(text)
    assert (status, facts["classes"], facts["score_threshold"]) == (200, ["boat", "buoy"], 0.3)
    assert facts["params"].keys() == {"score_threshold", "max_detections"}
    assert ask(port, "HEAD", "/docs")[:2] == (200, "")
    # FastAPI's page would load scripts from elsewhere.
    assert ask(port, "GET", "/redoc")[0] == 404
    assert ask(port, "GET", "/ping")[0] == 200


RECORD = {"dataframe_records": [{"image": TEXT}]}

# Each is sent as JSON; text stands for itself.
BAD_BODIES: list[tuple[object, str]] = [
    (b"", "valid JSON"),
    (b"hello", "valid JSON"),
    (JPEG, "valid JSON"),
    (b'{"inputs": ["\xff"]}', "valid JSON"),
    ([], "must be a JSON object, got a list"),
    (None, "must be a JSON object, got null"),
    ({}, "exactly one of the input fields"),
    ({"inputs": [TEXT], "instances": [TEXT]}, "exactly one of the input fields"),
    # Nested deeper than Python parses, and too many values to build.
    (b"[" * 9000, "nested too deeply"),
    (b"[" * 200_000, "more than 10000 JSON values"),
    (b'{"inputs": [' + b"{}," * 200_000 + b"0]}", "more than 10000 JSON values"),
    (b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", "row 0: an image must be the bytes"),
    # More digits than Python makes an integer of.
    (b'{"inputs": [' + b"9" * 10_000 + b"]}", "row 0: an image must be the bytes"),
    (b'{"inputs": [NaN, -Infinity]}', "got NaN; row 1: an image must be the bytes"),
    (b'{"inputs": ["\\ud800"]}', "row 0: the text '\\ud800' is not base64"),
    # Took half a minute, while the server answered nobody.
    ({"inputs": [" " * 100_000 + "!"]}, "is not base64"),
    ({"inputs": 5}, "must be a list of rows, got 5"),
    ({"inputs": []}, "no rows"),
    ({"inputs": ["!", "abcde"]}, "row 1: the text 'abcde' is not base64"),
    ({"inputs": [TEXT] * 10}, "the input has 10 rows: send at most 9"),
    ({"dataframe_records": {"image": [TEXT]}}, "must be a list of rows, got an object"),
    ({"dataframe_records": []}, "no rows"),
    ({"dataframe_records": [TEXT]}, "row 0: it must be an object with a column `image`"),
    ({"dataframe_records": [{"picture": TEXT}]}, "row 0: it must have a column `image`"),
    ({"dataframe_records": [{"image": None}]}, "row 0: an image must be the bytes"),
    ({"dataframe_records": [{"image": {"a": [1]}}]}, "got an object"),
    ({"dataframe_records": [{"image": ""}]}, "row 0: the bytes (0 of them) are not an image"),
    (
        {"dataframe_records": [{"image": TEXT}, {"image": "aGVsbG8="}]},
        "row 1: the bytes (5 of them) are not an image",
    ),
    ({"dataframe_records": [{"image": TEXT[:-200]}]}, "row 0: the image cannot be used"),
    ({"dataframe_split": "image"}, "dataframe_split must be"),
    ({"dataframe_split": {"columns": 5, "data": [[TEXT]]}}, "dataframe_split must be"),
    ({"dataframe_split": {"columns": ["image"], "data": []}}, "no rows"),
    ({"dataframe_split": {"columns": ["a"], "data": [[TEXT]]}}, "must have one column `image`"),
    ({"dataframe_split": {"columns": ["image"], "data": [[TEXT], []]}}, "row 1: it must be a list"),
    ({**RECORD, "params": [1]}, "params must be an object, got a list"),
    ({**RECORD, "params": {"max_detections": None}}, "must be an integer, got null"),
    ({**RECORD, "params": {"max_detections": "many"}}, "must be an integer, got the text 'many'"),
    ({**RECORD, "params": {"max_detections": True}}, "must be an integer, got true"),
    ({**RECORD, "params": {"max_detections": 2.5}}, "must be an integer, got 2.5"),
    ({**RECORD, "params": {"max_detections": 0}}, "max_detections must be at least 1, got 0"),
    ({**RECORD, "params": {"score_threshold": 7}}, "must be between 0 and 1, got 7"),
    ({**RECORD, "params": {"score_threshold": float("nan")}}, "must be between 0 and 1, got nan"),
    ({**RECORD, "params": {"score_threshold": [0.5]}}, "must be a number between 0 and 1"),
]


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES)
def test_a_bad_request_gets_the_reason_in_one_line(port: int, body: object, reason: str) -> None:
    status, text = post(port, body)
    assert (status, reason in json.loads(text)["message"]) == (400, True), text
    check_one_line(text)


def check_one_line(text: str) -> None:
    message = json.loads(text)["message"]
    assert "\n" not in message
    assert len(message) < 500
    assert "stack_trace" not in text
    assert "Traceback" not in text


def test_bad_parquet_and_csv_bodies_and_another_content_type(port: int) -> None:
    shared = to_parquet([JPEG])
    packed = io.BytesIO()
    pd.DataFrame({"image": [JPEG]}).to_parquet(packed, compression="zstd")
    other = io.BytesIO()
    pd.DataFrame({"picture": [JPEG]}).to_parquet(other)
    bodies = [
        (b"x", PARQUET, 400),
        (shared[: len(shared) // 2], PARQUET, 400),
        (packed.getvalue(), PARQUET, 400),
        (other.getvalue(), PARQUET, 400),
        (to_parquet([JPEG] * 10), PARQUET, 400),
        # A kilobyte that holds ten megabytes.
        (to_parquet([bytes(10_000_000)]), PARQUET, 413),
        (b"picture\nabc\n", "text/csv", 400),
        (b"\xff", "text/csv", 400),
        (b"", "text/csv", 400),
        (f"image\n{TEXT}\n".encode(), "text/csv; charset=utf-8", 200),
        (b"x", "text/plain", 415),
        (json.dumps(RECORD).encode(), "application/json; charset=latin-1", 415),
    ]
    for body, content_type, expected in bodies:
        status, text = post(port, body, content_type)
        assert status == expected, text
        if status != 200:
            check_one_line(text)


def test_bodies_images_and_pixels_are_limited(port: int) -> None:
    # Half a megapixel each, in a few kilobytes.
    large = base64.b64encode(encode_image(draw_image(800, 625, (0, 0, 9, 9)))).decode()
    assert post(port, {"inputs": [large] * 2})[0] == 200
    status, text = post(port, {"inputs": [large] * 3})
    assert (status, "2 megapixels together: send at most 1" in text) == (400, True)

    status, text = post(port, b" " * (2**20 + 1))
    assert (status, json.loads(text)["error_code"]) == (413, "BAD_REQUEST")

    # Without a declared length; the server answers before the end.
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    parts = iter([b" " * 2**19] * 3)
    connection.request("POST", "/invocations", parts, {"Content-Type": JSON}, encode_chunked=True)
    assert connection.getresponse().status == 413


def test_overload_is_refused_at_once_and_what_was_admitted_is_answered(
    port: int, gate: Gate
) -> None:
    with ThreadPoolExecutor(MAX_REQUESTS) as threads:
        gate.close()
        try:
            admitted = [threads.submit(post, port, RECORD) for _ in range(MAX_REQUESTS)]
            gate.wait_for(MAX_REQUESTS)

            connection = HTTPConnection("127.0.0.1", port, timeout=300)
            for _ in range(20):
                connection.request(
                    "POST", "/invocations", json.dumps(RECORD), {"Content-Type": JSON}
                )
                response = connection.getresponse()
                assert json.loads(response.read())["error_code"] == "TEMPORARILY_UNAVAILABLE"
                assert (response.status, response.headers["Retry-After"]) == (503, "1")

            # The server itself is well.
            connection.request("GET", "/ping")
            assert connection.getresponse().status == 200
        finally:
            gate.open()
        answers = [future.result(600) for future in admitted]

    assert [status for status, _ in answers] == [200] * MAX_REQUESTS
    assert len({text for _, text in answers}) == 1
    assert post(port, RECORD) == answers[0]


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_the_proxy_of_the_docs_asks_for_a_password(port: int, tmp_path: Path) -> None:
    certificate, key = tmp_path / "detreg.crt", tmp_path / "detreg.key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out"]
    subprocess.run([*make, str(certificate)], check=True, capture_output=True)
    hashed = subprocess.check_output(["openssl", "passwd", "-apr1", "secret"], text=True)
    (tmp_path / "detreg.htpasswd").write_text(f"me:{hashed}")

    proxy = free_port()
    example = (DEPLOY / "nginx.conf").read_text()
    example = example.replace("/etc/nginx", str(tmp_path))
    example = example.replace("443", f"127.0.0.1:{proxy}").replace("5001", str(port))
    # The tests may run as root, whose workers would run as nobody.
    user = "user root;" if os.getuid() == 0 else ""
    paths = "".join(
        f"{name}_temp_path {tmp_path};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"{user} daemon off; pid {tmp_path}/pid; error_log {tmp_path}/log;"
        f"events {{}} http {{ access_log off; {paths} {example} }}"
    )
    server = subprocess.Popen(["nginx", "-c", str(config), "-e", str(tmp_path / "log")])
    try:
        context = ssl.create_default_context(cafile=str(certificate))

        def ask(method: str, path: str, body: bytes = b"", password: str = "") -> int:
            login = base64.b64encode(f"me:{password}".encode()).decode()
            headers = {"Content-Type": JSON}
            if password:
                headers["Authorization"] = f"Basic {login}"
            connection = HTTPSConnection("127.0.0.1", proxy, timeout=300, context=context)
            connection.request(method, path, body, headers)
            return connection.getresponse().status

        deadline = time.monotonic() + 600
        while not (tmp_path / "pid").exists():
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

        body = json.dumps(RECORD).encode()
        assert ask("POST", "/invocations", body, "secret") == 200
        assert ask("POST", "/invocations", body) == 401
        assert ask("POST", "/invocations", body, "guess") == 401
        assert ask("POST", "/invocations", b" " * (33 * 2**20), "secret") == 413
        assert ask("POST", "/ping", body, "secret") == 404
        assert ask("GET", "/ping", password="secret") == 200
        assert ask("GET", "/docs", password="secret") == 404
        assert ask("GET", "/invocations", password="secret") == 403
    finally:
        server.terminate()
        server.wait(300)


@pytest.mark.soak
def test_no_body_of_500_makes_the_server_fail(port: int) -> None:
    random = Random(14)
    statuses = Counter(post(port, make_wild_body(random))[0] for _ in range(500))
    print(dict(statuses))
    assert set(statuses) <= {200, 400, 413}
    assert post(port, RECORD)[0] == 200


def make_wild_body(random: Random) -> bytes:
    """Return a request with some of its values replaced, or its bytes damaged."""
    body = json.dumps(make_wild_value(random, depth=0)).encode()
    if random.random() < 0.2:
        damaged = bytearray(body)
        for _ in range(random.randint(1, 20)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        body = bytes(damaged)
    if random.random() < 0.1:
        return body[: random.randrange(len(body))]
    if random.random() < 0.1:
        # json.dumps writes neither such integers nor so many brackets.
        wild = random.choice([b"9" * 10_000, b"[" * 5000 + b"]" * 5000, b"1e999", b"-0", b"{}" * 9])
        return body.replace(b"null", wild)
    return body


def make_wild_value(random: Random, depth: int) -> object:
    """Return a request, or a part of one, with parts of any type in any place."""
    wild: list[object] = [None, True, -1, 2.5, float("nan"), 10**30, "", "image", "\ud800", TEXT]
    wild += [TEXT[:99], [], {}, [None], {"image": None}, [[TEXT]], "é" * 1000, {"": 0}, " " * 9999]
    if random.random() < 0.15 or depth > 4:
        return random.choice(wild)

    def make() -> object:
        return TEXT if random.random() < 0.5 else make_wild_value(random, depth + 1)

    rows = [make() for _ in range(random.randrange(4))]
    forms: list[dict[str, object]] = [
        {"inputs": rows},
        {"instances": {"image": rows}},
        {"dataframe_records": [{"image": row, "other": make()} for row in rows]},
        {"dataframe_split": {"columns": ["image"], "data": [[row] for row in rows]}},
        {"dataframe_split": {"columns": make(), "data": make(), "index": make()}},
        {random.choice(["inputs", "dataframe_records", "dataframe_split", "x"]): make()},
    ]
    value = random.choice(forms)
    if random.random() < 0.5:
        names = ["score_threshold", "max_detections", "\ud800", "params"]
        value["params"] = {name: random.choice([1, 0.5, *wild]) for name in names}
    return value


def read_instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with its arguments on one line."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(instruction, arguments) for instruction, arguments in pairs]


def test_the_dockerfile_copies_and_starts_what_a_model_has(logged: LoggedModel) -> None:
    """No Docker builds it here: names, paths and flags are compared with those that they mean."""
    instructions = read_instructions(DEPLOY / "serve.Dockerfile")
    given = dict(instructions)
    copied = [arguments.split() for name, arguments in instructions if name == "COPY"]
    assert copied == [["requirements.txt", "./"], [".", "./"]]
    assert (logged.folder / "requirements.txt").is_file()
    assert given["RUN"].startswith("useradd")
    assert given["USER"] == "detreg"

    # The flags of MLflow's command, and the port and folder that stand in several places.
    words = json.loads(given["CMD"])
    assert words[:3] == ["mlflow", "models", "serve"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    known = {option for param in mlflow.models.cli.serve.params for option in param.opts}
    assert flags.keys() <= known
    assert flags["--model-uri"] == given["WORKDIR"]
    assert flags["--port"] == given["EXPOSE"]
    check = json.loads(given["HEALTHCHECK"].partition("CMD ")[2])
    assert f"http://127.0.0.1:{given['EXPOSE']}/ping" in check[2]
    compile(check[2], "HEALTHCHECK", "exec")

    python = given["ARG"].removeprefix("PYTHON=")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(f"{python}.0")


def test_the_model_asks_for_cuda_where_there_are_wheels_for_it(logged: LoggedModel) -> None:
    lines = (logged.folder / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines]
    runtimes = [each for each in requirements if each.name.startswith("onnxruntime")]
    machines = [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ]
    for system, machine, expected in machines:
        where = {"sys_platform": system, "platform_machine": machine}
        wanted = [each for each in runtimes if each.marker and each.marker.evaluate(where)]
        assert [each.name for each in wanted] == [expected]
        assert str(wanted[0].specifier) == f"=={onnxruntime.__version__}"

    # The same machines as those of the package itself, and extras that exist.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [Requirement(text) for text in project["dependencies"]]
    markers = {each.name: str(each.marker) for each in declared}
    for each in runtimes:
        assert str(each.marker) == markers[each.name]
    assert runtimes[0].extras == {"cuda", "cudnn"}
    with contextlib.suppress(PackageNotFoundError):
        assert runtimes[0].extras <= set(
            metadata("onnxruntime-gpu").get_all("Provides-Extra") or ()
        )


def test_the_logged_model_needs_neither_training_code_nor_an_installed_detreg(
    logged: LoggedModel,
) -> None:
    code = """
import sys
for name in ("torch", "torchvision", "mmdet", "mmengine", "mmcv", "onnx"):
    sys.modules[name] = None
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(len(model.predict(pandas.DataFrame({"image": [open(sys.argv[2], "rb").read()]}))[0]["boxes"]))
print(sys.modules["detreg"].__file__)
"""
    folder = logged.folder.parent
    image = folder / "boats.jpg"
    image.write_bytes(JPEG)
    command = [sys.executable, "-c", code, str(logged.folder), str(image)]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    own_package = logged.folder / "code" / "detreg" / "__init__.py"
    assert completed.stdout.splitlines() == ["2", str(own_package)]


def test_detector_finds_the_file_in_runs_and_models(logged: LoggedModel) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("toy")
    version = client.create_model_version("toy", logged.uri)
    client.set_registered_model_alias("toy", "champion", version.version)

    run = f"runs:/{logged.run_id}/model"
    for model in (logged.run_id, run, logged.uri, "models:/toy@champion", "models:/toy/1"):
        assert Detector.load(model).classes == ("boat", "buoy")


@pytest.mark.parametrize(
    "model",
    [
        "f" * 32,
        f"runs:/{'f' * 32}/model",
        "models:/toy@nobody",
        "models:/nothing/3",
        "models:/nothing@champion",
        "models:/toy/99",
    ],
)
def test_what_mlflow_does_not_have_is_named(logged: LoggedModel, model: str) -> None:
    with pytest.raises(NotFoundError, match=r"is not (there|registered)"):
        Detector.load(model)


def test_a_run_without_a_model_and_a_model_that_is_not_detregs(logged: LoggedModel) -> None:
    with mlflow.start_run() as empty:
        pass
    with pytest.raises(NotFoundError, match="has logged no model"):
        Detector.load(empty.info.run_id)
    with mlflow.start_run() as other:
        mlflow.log_text("hello", "model/MLmodel")
    with pytest.raises(DataError, match="0 ONNX files"):
        Detector.load(other.info.run_id)


def test_a_server_that_does_not_answer(
    logged: LoggedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(
            UnreachableError, match=r"http://127.0.0.1:9 does not answer .* set MLFLOW_TRACKING_URI"
        ):
            Detector.load(logged.run_id)
    finally:
        mlflow.set_tracking_uri(logged.store)


def test_require_gpu_refuses_at_load(logged: LoggedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detreg.inference.runtime.count_cuda_devices", lambda: 0)
    with pytest.raises(RefusedError, match="A GPU is required"):
        mlflow.pyfunc.load_model(logged.uri, model_config={"require_gpu": True})
    monkeypatch.setenv("DETREG_REQUIRE_GPU", "1")
    with pytest.raises(RefusedError, match="A GPU is required"):
        mlflow.pyfunc.load_model(logged.uri)
