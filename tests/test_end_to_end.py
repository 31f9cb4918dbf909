"""What a user does, with a real MLflow server and real commands.

`mlflow run`, the command line and `mlflow models serve`, each as a process of its own.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, free_port

ROOT = Path(__file__).parents[1]
LOCAL = ("--env-manager", "local")
START_SECONDS = 600
PASSWORD = "canary"
pytestmark = pytest.mark.slow

JSON = dict[str, Any]
"""What MLflow's REST interface answers."""


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server; the deadline is there for one that hangs, not for a slow machine."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a server and the workers it started."""
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(300)


def post_json(url: str, body: JSON) -> JSON:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        answer: JSON = json.load(response)
    return answer


def to_flags(values: Mapping[str, object]) -> list[str]:
    """Return hyperparameters and options as the flags of `detreg`."""
    words: list[str] = []
    for name, value in values.items():
        words += [f"--{name}", str(value)]
    return words


def to_entry_params(values: Mapping[str, object]) -> list[str]:
    """Return hyperparameters and options as the parameters of `mlflow run`."""
    words: list[str] = []
    for name, value in values.items():
        words += ["-P", f"{name}={value}"]
    return words


def by_key(entries: list[JSON]) -> JSON:
    """Return the params, metrics or tags of a run by name."""
    return {entry["key"]: entry["value"] for entry in entries}


@dataclass(frozen=True)
class Workplace:
    """A user's folder, and a tracking server that keeps artifacts."""

    folder: Path
    environment: dict[str, str]
    server: str

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command and return how it ended; what it prints is kept in a file, too."""
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        with (self.folder / "printed.txt").open("a") as file:
            file.write(done.stdout + done.stderr)
        return done

    def run_successfully(self, *words: str) -> str:
        """Run a command that must succeed and return its standard output."""
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> JSON:
        """Ask the server's REST interface."""
        with urllib.request.urlopen(f"{self.server}/api/2.0/mlflow/{path}") as response:
            answer: JSON = json.load(response)
        return answer

    def get_latest_run(self) -> JSON:
        body = {"experiment_ids": ["0"], "max_results": 1}
        found = post_json(f"{self.server}/api/2.0/mlflow/runs/search", body)
        run: JSON = found["runs"][0]
        return run

    def get_champion_version(self) -> str:
        answer = self.get("registered-models/alias?name=yolox-tiny&alias=champion")
        version: str = answer["model_version"]["version"]
        return version


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("workplace")
    port = free_port()

    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        # The server asks for no password, and does not mind one.
        "MLFLOW_TRACKING_URI": f"http://me:{PASSWORD}@127.0.0.1:{port}",
        # `mlflow run` itself prints the server's URL as it is.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # One second: the training is shorter than the usual ten.
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1",
        # The server's runner of jobs takes longer to start than the server.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    # MLflow leaves the experiment of other tests in this process's environment.
    for name in list(environment):
        if name.startswith("MLFLOW_EXPERIMENT"):
            del environment[name]

    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    wait_until_it_answers(f"http://127.0.0.1:{port}/health", process)
    yield Workplace(folder, environment, f"http://127.0.0.1:{port}")
    stop_group(process)


@pytest.fixture(scope="module")
def run(workplace: Workplace, tiny: Path, dense_checkpoint: Path) -> JSON:
    """Train by `mlflow run`, which logs the values in the user's spelling before we start."""
    values = TINY | {
        "data": tiny,
        "load_from": dense_checkpoint,
        "per_item_lrate": "1e-6",
        "run_name": "first one",
    }
    entry = ["mlflow", "run", str(ROOT), "-e", "MMDetection_YOLOX", *LOCAL]
    done = workplace.run(*entry, *to_entry_params(values))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Try next:" in done.stdout
    assert "\ndetreg: " not in done.stderr
    return workplace.get_latest_run()


def test_mlflow_run_logs_one_run(run: JSON) -> None:
    assert run["info"]["status"] == "FINISHED"

    params = by_key(run["data"]["params"])
    assert params["per_item_lrate"] == "1e-6"
    assert params["base_model"] == "yolox_nano"
    assert params["precision"] == "auto"
    assert params["precision.resolved"] == "fp32"

    metrics = by_key(run["data"]["metrics"])
    assert {"mAP", "val/mAP", "train/loss", "test/mAP", "parity/matched"} <= set(metrics)
    assert any(name.startswith("system/") for name in metrics)


def test_the_password_of_the_server_is_nowhere(workplace: Workplace, run: JSON) -> None:
    """Neither printed nor in the server's database and artifacts, nor in the user's files."""
    assert "me:***@127.0.0.1" in (workplace.folder / "printed.txt").read_text()

    cache = Path(workplace.environment["DETREG_CACHE"])
    files = [path for path in (*workplace.folder.rglob("*"), *cache.rglob("*")) if path.is_file()]
    password = PASSWORD.encode()
    assert [path for path in files if password in path.read_bytes()] == []
    assert any(run["info"]["run_id"].encode() in path.read_bytes() for path in files)


def test_a_refused_run_says_why(workplace: Workplace, run: JSON) -> None:
    values = {"batch_size": 99, "image_size": 100}
    done = workplace.run(
        "mlflow", "run", str(ROOT), "-e", "yolox", *LOCAL, *to_entry_params(values)
    )

    assert done.returncode != 0
    assert "detreg: batch_size must be auto, or an integer from 1 to 32" in done.stderr
    assert "Traceback (most recent" not in done.stderr

    failed = workplace.get_latest_run()
    assert failed["info"]["run_id"] != run["info"]["run_id"]
    assert failed["info"]["status"] == "FAILED"
    reason = by_key(failed["data"]["tags"])["detreg.failure"]
    assert "batch_size must be" in reason
    assert "image_size must be" in reason


def test_training_resumes_from_the_server_alone(
    workplace: Workplace, run: JSON, tiny: Path
) -> None:
    """Another folder and another cache stand for another machine."""
    eid = run["info"]["run_id"]
    away = workplace.folder / "away"
    away.mkdir()
    environment = {**workplace.environment, "DETREG_CACHE": str(away / "cache")}
    other = Workplace(away, environment, workplace.server)

    values = TINY | {
        "data": tiny,
        "per_item_lrate": 1e-6,
        "num_epochs": 3,
        "continue_from_eid": eid,
    }
    done = other.run("detreg", "train", "yolox", *to_flags(values), "--json")
    assert done.returncode == 0, done.stderr
    assert f"Resumes run {eid} after epoch 2 of 3" in done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "FINISHED"
    assert result["model_version"] == "2"

    path = f"metrics/get-history?run_id={result['run_id']}&metric_key=val/mAP"
    history = workplace.get(path)["metrics"]
    assert [entry["step"] for entry in history] == [3]


def test_predict_writes_detections_and_images(workplace: Workplace, run: JSON, tiny: Path) -> None:
    model = f"runs:/{run['info']['run_id']}/model"
    out = workplace.folder / "found"
    workplace.run_successfully(
        "detreg", "predict", model, str(tiny), "--out", str(out), "--score_threshold", "0"
    )

    drawn = list(out.glob("*.jpg"))
    assert len(drawn) == len(list(tiny.rglob("*.jpg")))
    rows = json.loads((out / "predictions.json").read_text())
    keys = {"image_id", "category_id", "category_name", "bbox", "score", "file_name"}
    assert keys <= set(rows[0])


def test_evaluate_finds_the_logged_score_again(workplace: Workplace, run: JSON, tiny: Path) -> None:
    eid = run["info"]["run_id"]
    output = workplace.run_successfully("detreg", "evaluate", eid, "--data", str(tiny), "--json")

    result = json.loads(output)
    logged = by_key(run["data"]["metrics"])
    assert result["mAP"] == pytest.approx(logged["mAP"], abs=1e-9)
    assert result["score_threshold"] == logged["operating_point/score_threshold"]
    assert result["recall"] == logged["operating_point/recall"]


def test_export_writes_the_champion(workplace: Workplace, run: JSON) -> None:
    workplace.run_successfully(
        "detreg", "export", "models:/yolox-tiny@champion", "--out", "model.onnx"
    )
    assert (workplace.folder / "model.onnx").stat().st_size > 1_000_000


def test_promote_and_rollback_move_the_champion(workplace: Workplace, run: JSON) -> None:
    before = workplace.get_champion_version()
    other = "2" if before == "1" else "1"

    values = {"name": "yolox-tiny", "version": other}
    entry = ["mlflow", "run", str(ROOT), "-e", "promote", *LOCAL]
    workplace.run_successfully(*entry, *to_entry_params(values))
    assert workplace.get_champion_version() == other

    workplace.run_successfully("detreg", "promote", "yolox-tiny", "--rollback")
    assert workplace.get_champion_version() == before


def test_the_champion_is_served(workplace: Workplace, run: JSON, tiny: Path) -> None:
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", "models:/yolox-tiny@champion", *LOCAL]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    with (workplace.folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=workplace.folder,
            env=workplace.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/ping", process)
        url = f"http://127.0.0.1:{port}/invocations"
        image = base64.b64encode(next(tiny.rglob("*.jpg")).read_bytes()).decode()
        limits = {"score_threshold": 0.0, "max_detections": 3}

        answer = post_json(url, {"dataframe_records": [{"image": image}], "params": limits})
        row = answer["predictions"][0]
        assert set(row) == {"boxes", "scores", "labels", "class_names"}
        assert len(row["boxes"]) == len(row["scores"]) <= 3

        not_an_image = base64.b64encode(b"not an image").decode()
        with pytest.raises(urllib.error.HTTPError) as caught:
            post_json(url, {"dataframe_records": [{"image": not_an_image}]})
        assert caught.value.code == 400
        assert b"Traceback" not in caught.value.read()
    finally:
        stop_group(process)


def test_a_missing_server_is_exit_code_69(workplace: Workplace, tiny: Path) -> None:
    environment = {
        **workplace.environment,
        "MLFLOW_TRACKING_URI": f"http://me:{PASSWORD}@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    away = Workplace(workplace.folder, environment, workplace.server)
    done = away.run("detreg", "train", "yolox", *to_flags(TINY | {"data": tiny}))

    assert done.returncode == 69
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith("detreg: MLflow at http://me:***@127.0.0.1:9 does not answer")
