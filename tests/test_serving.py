"""The served model, over HTTP, in a real `mlflow models serve` process."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import free_port
from toy_detector import draw_image, encode_image, write_toy_model

from detreg.errors import DataError, NotFoundError, RefusedError, UnreachableError
from detreg.inference import images
from detreg.inference.detector import Detector
from detreg.serving.packaging import log_model

JPEG = encode_image(draw_image(128, 96, (32, 16, 64, 48)), ".jpg")
TEXT = base64.b64encode(JPEG).decode()
JSON = "application/json"
PARQUET = "application/vnd.apache.parquet"


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


@pytest.fixture(scope="module")
def port(logged: LoggedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    number = free_port()
    # MLflow looks uvicorn up in PATH, as after activating the environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "MLFLOW_TRACKING_URI": logged.store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    serve = ["-m", "mlflow", "models", "serve", "-m", logged.uri, "--env-manager", "local"]
    command = [sys.executable, *serve, "-h", "127.0.0.1", "-p", str(number)]
    with (tmp_path_factory.mktemp("server") / "log").open("w+") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=logged.folder, stdout=log, stderr=log
        )
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


def post(port: int, body: object, content_type: str = JSON) -> tuple[int, str]:
    """Send a request and return its status and text; a body that is not bytes is sent as JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/invocations", data, {"Content-Type": content_type})
    response = connection.getresponse()
    return response.status, response.read().decode()


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


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "valid JSON"),
        (b"hello", "valid JSON"),
        (JPEG, "valid JSON"),
        ([], "Received a list"),
        ({}, "exactly one of the input fields"),
        ({"dataframe_records": []}, "must be a table with a column `image`"),
        ({"dataframe_records": [{"picture": TEXT}]}, "must be a table with a column `image`"),
        ({"dataframe_records": [{"image": None}]}, "Failed to convert column image"),
        ({"dataframe_records": [{"image": "abcde"}]}, "Failed to convert column image"),
        ({"dataframe_records": [{"image": ""}]}, "row 0: the bytes (0 of them) are not an image"),
        (
            {"dataframe_records": [{"image": TEXT}, {"image": "aGVsbG8="}]},
            "row 1: the bytes (5 of them) are not an image",
        ),
        ({"dataframe_records": [{"image": TEXT[:-200]}]}, "row 0: the image is damaged"),
        ({"dataframe_split": {"columns": ["image"], "data": []}}, "no rows"),
        ({"inputs": ["!", "abcde"]}, "row 0: the bytes (1 of them) are not an image"),
        ({"inputs": 5}, "must be a table with a column `image`"),
        (
            {"inputs": [TEXT], "params": {"score_threshold": 7}},
            "score_threshold must be between 0 and 1",
        ),
        ({"inputs": [TEXT], "params": {"max_detections": "many"}}, "max_detections"),
    ],
)
def test_a_bad_request_gets_the_reason_in_one_line(port: int, body: object, reason: str) -> None:
    status, text = post(port, body)
    message = json.loads(text)["message"]
    assert status == 400
    assert reason in message
    assert "\n" not in message
    assert len(message) < 500
    assert "stack_trace" not in text
    assert "Traceback" not in text


def test_a_bad_parquet_body_and_another_content_type(port: int) -> None:
    status, text = post(port, b"x", PARQUET)
    assert (status, "Traceback" in text) == (400, False)
    assert post(port, b"x", "text/plain")[0] == 415


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
