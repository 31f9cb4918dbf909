"""What a user does, with a real MLflow server: `mlflow run`, the command line, `mlflow models serve`."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, free_port

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


def stopped(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


@dataclass(frozen=True)
class Desk:
    """A user's folder, and a tracking server that keeps artifacts."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def good(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def api(self, path: str) -> Any:
        with urllib.request.urlopen(
            f"{self.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}"
        ) as answer:
            return json.load(answer)

    def latest(self) -> dict[str, Any]:
        body = json.dumps({"experiment_ids": ["0"], "max_results": 1}).encode()
        url = f"{self.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/search"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            run: dict[str, Any] = json.load(answer)["runs"][0]
        return run


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # MLflow leaves the experiment of other tests in this process's environment.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_EXPERIMENT")
    }
    environment = {
        **inherited,
        "PATH": path,
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "PYTHONPATH": str(ROOT),
    }
    environment["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"] = (
        "1"  # second; the training is shorter than the usual ten
    )
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    wait_for(f"http://127.0.0.1:{port}/health", process)
    yield Desk(folder, environment)
    stopped(process)


@pytest.fixture(scope="module")
def run(desk: Desk, tiny: Path, dense_checkpoint: Path) -> dict[str, Any]:
    """A training by `mlflow run`, with values that MLflow has already logged in the user's spelling."""
    values = TINY | {
        "data": tiny,
        "load_from": dense_checkpoint,
        "per_item_lrate": "1e-6",
        "run_name": "first one",
    }
    words = [word for name, value in values.items() for word in ("-P", f"{name}={value}")]
    done = desk(
        "mlflow", "run", str(ROOT), "-e", "MMDetection_YOLOX", "--env-manager", "local", *words
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Try next:" in done.stdout and "\ndetreg: " not in done.stderr
    return desk.latest()


def test_mlflow_run_logs_one_run(run: dict[str, Any]) -> None:
    assert run["info"]["status"] == "FINISHED"
    params = {entry["key"]: entry["value"] for entry in run["data"]["params"]}
    assert (
        params["per_item_lrate"] == "1e-6"
        and params["base_model"] == "yolox_nano"
        and params["amp"] == "false"
    )
    metrics = {entry["key"] for entry in run["data"]["metrics"]}
    assert {"mAP", "val/mAP", "train/loss", "test/mAP", "parity/matched"} <= metrics
    assert any(name.startswith("system/") for name in metrics)


def test_a_run_that_is_refused_says_why(desk: Desk, run: dict[str, Any]) -> None:
    done = desk(
        "mlflow",
        "run",
        str(ROOT),
        "-e",
        "yolox",
        "--env-manager",
        "local",
        "-P",
        "batch_size=99",
        "-P",
        "image_size=100",
    )
    assert done.returncode != 0
    assert (
        "detreg: batch_size must be an integer from 1 to 32, not 99" in done.stderr
        and "Traceback (most recent" not in done.stderr
    )
    failed = desk.latest()
    tags = {entry["key"]: entry["value"] for entry in failed["data"]["tags"]}
    assert (
        failed["info"]["status"] == "FAILED" and failed["info"]["run_id"] != run["info"]["run_id"]
    )
    assert (
        "batch_size must be" in tags["detreg.failure"]
        and "image_size must be" in tags["detreg.failure"]
    )


def test_it_goes_on_from_the_server_alone(desk: Desk, run: dict[str, Any], tiny: Path) -> None:
    """In another folder with another cache, as on another machine."""
    values = TINY | {
        "data": tiny,
        "per_item_lrate": 1e-6,
        "num_epochs": 3,
        "continue_from_eid": run["info"]["run_id"],
    }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    away = desk.folder / "away"
    away.mkdir()
    there = Desk(away, {**desk.environment, "DETREG_CACHE": str(away / "cache")})
    output = there.good("detreg", "train", "yolox", *words, "--json")
    assert f"Resumes run {run['info']['run_id']} after epoch 2 of 3" in output
    result = json.loads(output.splitlines()[-1])
    assert result["status"] == "FINISHED" and result["model_version"] == "2"
    history = desk.api(f"metrics/get-history?run_id={result['run_id']}&metric_key=val/mAP")[
        "metrics"
    ]
    assert [entry["step"] for entry in history] == [3]


def test_predict_evaluate_export_and_promote(desk: Desk, run: dict[str, Any], tiny: Path) -> None:
    desk.good(
        "detreg",
        "predict",
        "models:/yolox/1",
        str(tiny),
        "--out",
        "found",
        "--score_threshold",
        "0",
    )
    rows = json.loads((desk.folder / "found/predictions.json").read_text())
    assert len(list((desk.folder / "found").glob("*.jpg"))) == len(list(tiny.rglob("*.jpg")))
    assert (
        rows
        and {"image_id", "category_id", "category_name", "bbox", "score", "file_name"}
        <= rows[0].keys()
    )
    result = json.loads(
        desk.good(
            "detreg", "evaluate", run["info"]["run_id"], "--data", str(tiny), "--json"
        ).splitlines()[-1]
    )
    trained = {entry["key"]: entry["value"] for entry in run["data"]["metrics"]}
    assert result["mAP"] == pytest.approx(trained["mAP"], abs=1e-9)
    desk.good("detreg", "export", "models:/yolox@champion", "--out", "model.onnx")
    assert (desk.folder / "model.onnx").stat().st_size > 1_000_000
    before = desk.api("registered-models/alias?name=yolox&alias=champion")["model_version"][
        "version"
    ]
    other = "2" if before == "1" else "1"
    desk.good(
        "mlflow",
        "run",
        str(ROOT),
        "-e",
        "promote",
        "--env-manager",
        "local",
        "-P",
        "name=yolox",
        "-P",
        f"version={other}",
    )
    assert (
        desk.api("registered-models/alias?name=yolox&alias=champion")["model_version"]["version"]
        == other
    )
    desk.good("detreg", "promote", "yolox", "--rollback")
    assert (
        desk.api("registered-models/alias?name=yolox&alias=champion")["model_version"]["version"]
        == before
    )


def test_the_champion_is_served(desk: Desk, run: dict[str, Any], tiny: Path) -> None:
    port = free_port()
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/yolox@champion",
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with (desk.folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=desk.folder,
            env=desk.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process)
        picture = base64.b64encode(next(tiny.rglob("*.jpg")).read_bytes()).decode()
        body = json.dumps(
            {
                "dataframe_records": [{"image": picture}],
                "params": {"score_threshold": 0.0, "max_detections": 3},
            }
        )
        row = json.load(post(port, body))["predictions"][0]
        assert (
            set(row) == {"boxes", "scores", "labels", "class_names"}
            and len(row["boxes"]) == len(row["scores"]) <= 3
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(port, json.dumps({"dataframe_records": [{"image": "bm90IGEgcGljdHVyZQ=="}]}))
        assert caught.value.code == 400 and b"Traceback" not in caught.value.read()
    finally:
        stopped(process)


def post(port: int, body: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body.encode(), {"Content-Type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=60)


def test_a_server_that_is_not_there_is_exit_code_69(desk: Desk, tiny: Path) -> None:
    environment = {
        **desk.environment,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    values = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    done = Desk(desk.folder, environment)("detreg", "train", "yolox", "--data", str(tiny), *values)
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1].startswith(
        "detreg: MLflow at http://127.0.0.1:9 does not answer"
    )
