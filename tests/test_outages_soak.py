"""Outages of a tracking server, by name, and what becomes of a run in each.

A run with the writes of a training of five epochs goes through a proxy to a real MLflow server.
The proxy misbehaves at the start, in an epoch or at the end, for a while or for good. A table is
printed (`pytest -m soak -s tests/test_outages_soak.py`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import free_port
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from scripted_proxy import Fault, ScriptedProxy

pytestmark = pytest.mark.soak

EPOCHS = 5
METRICS = 4
POINTS = EPOCHS * METRICS

_TRAINING = """
import json, sys, time
from pathlib import Path
from detreg import cli
from detreg.tracking import run, runs, sender

runs.PATIENCE = run.PATIENCE = sender.Patience(failing=5, hanging=20)

def say(word):
    print(word, flush=True)
    sys.stdin.readline()

def train():
    stalls = []
    with runs.start_run("outage", {runs.TEMPLATE: "yolox"}) as active:
        print("run", active.id, flush=True)
        active.log_params({"batch_size": "8"})
        active.log_text("{}", "params.json")
        for epoch in range(1, 6):
            say(f"epoch {epoch}")
            started_at = time.monotonic()
            values = {f"metric{i}": epoch + i / 10 for i in range(4)}
            active.log_metrics(values, step=epoch)
            for name in ("last.pth", "best.pth"):
                (active.folder / name).write_bytes(bytes([epoch]) * 2_000_000)
            active.note_saved_checkpoints(epoch, "last.pth", "best.pth")
            slot = f"checkpoints/{epoch % 2}"
            if not active.is_uploading or epoch == 5:
                for name in ("last.pth", "best.pth"):
                    active.log_file(active.folder / name, slot)
                active.tag_checkpoints(
                    runs.StoredCheckpoints(epoch, f"{slot}/last.pth", f"{slot}/best.pth")
                )
            stalls.append(time.monotonic() - started_at)
        print("stalls", json.dumps(stalls), flush=True)
        say("end")
    return 0

class Arguments:
    command = staticmethod(lambda _: train())

cli.parse_arguments = lambda words: Arguments()
sys.exit(cli.run([]))
"""


@dataclass(frozen=True)
class Scenario:
    """A fault that begins before one of the process's steps and ends before another.

    first: `start`, `epoch 2` or `end`. last: `epoch 4`, or empty where the fault ends while the
    process waits at its end, or `never`.
    """

    fault: Fault
    first: str
    last: str
    exit_code: int = 0

    @property
    def name(self) -> str:
        until = {"": "end", "never": "for good"}.get(self.last, self.last)
        return f"{self.fault.value}, {self.first} to {until}"


GONE = (Fault.REFUSE, Fault.BLACK_HOLE, Fault.ERROR_500, Fault.ERROR_503, Fault.CUT)
FAULTS = (*GONE, Fault.DELAY, Fault.LOST_ANSWER)
SCENARIOS = [
    *[Scenario(fault, "start", "never", 69) for fault in (Fault.REFUSE, Fault.ERROR_503)],
    *[Scenario(fault, "epoch 2", "epoch 4") for fault in FAULTS],
    *[Scenario(fault, "end", "") for fault in FAULTS],
    *[Scenario(fault, "epoch 2", "never", 75) for fault in (*GONE, Fault.LOST_ANSWER)],
    Scenario(Fault.REFUSE, "end", "never", 75),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run an MLflow server; return its port."""
    folder = tmp_path_factory.mktemp("server") / "server"
    with MlflowServer(folder, free_port()) as server:
        yield server.port


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    """Collect the table's rows, and print it at the end."""
    collected: list[str] = []
    yield collected
    print("\nscenario | exit | status at the end | lost | doubled | longest stall | after sync")
    for row in collected:
        print(row)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_an_outage_loses_and_doubles_nothing(
    server: int, rows: list[str], tmp_path: Path, scenario: Scenario
) -> None:
    client = MlflowClient(f"http://127.0.0.1:{server}")
    with ScriptedProxy(server) as proxy:
        environment = {
            **os.environ,
            "DETREG_CACHE": str(tmp_path / "cache"),
            "MLFLOW_TRACKING_URI": proxy.uri,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        }
        if scenario.first == "start":
            proxy.set_fault(scenario.fault)
        process = subprocess.Popen(
            [sys.executable, "-c", _TRAINING],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if scenario.first == "start":
            _, errors = process.communicate()
            assert process.returncode == scenario.exit_code, errors
            rows.append(f"{scenario.name} | {process.returncode} | never started | 0 | 0 | 0 |")
            return

        run_id, stalls = _play(process, proxy, scenario)
        _, errors = process.communicate()
        assert process.returncode == scenario.exit_code, errors
        before = client.get_run(run_id).info.status

        proxy.set_fault(Fault.NONE)
        after_sync = ""
        if scenario.exit_code == 75:
            assert f"detreg sync {run_id}" in errors
            for _ in range(2):
                command = [sys.executable, "-m", "detreg", "sync", run_id]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
            after_sync = client.get_run(run_id).info.status

    lost, doubled = _count(client, run_id)
    rows.append(
        f"{scenario.name} | {process.returncode} | {before} | {lost} | {doubled} | "
        f"{max(stalls):.2f} s | {after_sync}"
    )
    assert (lost, doubled) == (0, 0)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "detreg.failure" not in run.data.tags
    assert run.data.params == {"batch_size": "8"}
    stored = json.loads(run.data.tags["detreg.checkpoint"])
    assert stored["epoch"] == EPOCHS
    path = client.download_artifacts(run_id, stored["last"], str(tmp_path))
    assert Path(path).read_bytes() == bytes([EPOCHS]) * 2_000_000
    assert not list((tmp_path / "cache" / "runs").iterdir())
    # A figure of the table, with room for a machine on which everything else is slower.
    assert max(stalls) < 60


def _play(
    process: "subprocess.Popen[str]", proxy: ScriptedProxy, scenario: Scenario
) -> tuple[str, list[float]]:
    """Let the process take its steps, with the scenario's fault between two of them."""
    assert process.stdin and process.stdout
    run_id, stalls = "", [0.0]
    for line in process.stdout:
        word, _, rest = line.strip().partition(" ")
        if word == "run":
            run_id = rest
        elif word == "stalls":
            stalls = json.loads(rest)
        elif word in ("epoch", "end"):
            if line.strip() == scenario.first:
                proxy.set_fault(scenario.fault)
            elif line.strip() == scenario.last:
                proxy.wait_for_hits(1) if scenario.fault is not Fault.REFUSE else None
                proxy.set_fault(Fault.NONE)
            process.stdin.write("go\n")
            process.stdin.flush()
            if word == "end":
                break
    if scenario.last == "":
        if scenario.fault is not Fault.REFUSE:
            proxy.wait_for_hits(1)
        proxy.set_fault(Fault.NONE)
    return run_id, stalls


def _count(client: MlflowClient, run_id: str) -> tuple[int, int]:
    """Return how many metric points are lost, and how many are there twice."""
    expected = {(f"metric{i}", epoch) for i in range(METRICS) for epoch in range(1, EPOCHS + 1)}
    found: list[tuple[str, int]] = []
    for i in range(METRICS):
        history = client.get_metric_history(run_id, f"metric{i}")
        found += [(metric.key, metric.step) for metric in history]
    return len(expected - set(found)), len(found) - len(set(found))
