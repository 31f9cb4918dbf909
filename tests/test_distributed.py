"""Training by torchrun in two real processes equals training in one."""

import json
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import TINY, run_under_torchrun
from mlflow import MlflowClient
from torch import Tensor

import detreg
from detreg.tracking import runs
from detreg.training.checkpoints import load_checkpoint

FROZEN_MODULES = ("backbone.stem.", "backbone.stage1.", "backbone.stage2.")


def get_values(eid: str, metric: str) -> list[float]:
    return [entry.value for entry in MlflowClient().get_metric_history(eid, metric)]


def get_steps(eid: str, metric: str) -> list[int]:
    return [entry.step for entry in MlflowClient().get_metric_history(eid, metric)]


def load_trained_weights(eid: str, folder: Path) -> dict[str, Tensor]:
    """Return the weights under training at the end, not their average."""
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    path = runs.download_artifact(eid, stored.last, folder / eid)
    training = load_checkpoint(path).training
    assert training is not None
    return dict(training["state_dict"])


def wait_for_result(process: "subprocess.Popen[str]") -> tuple[dict[str, Any], str]:
    """Return what `--json` prints, and everything that was printed."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(output), errors


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    store: str, tiny: Path, dense_checkpoint: Path, tmp_path: Path
) -> None:
    # At usual rates a difference of a ten-millionth grows a hundredfold with each step.
    values: dict[str, Any] = {
        "load_from": str(dense_checkpoint),
        "per_item_lrate": 1e-6,
        "frozen_stages": 2,
        "num_workers": 1,
    }
    alone = detreg.train("yolox", data=str(tiny), **TINY | values)
    together, printed = wait_for_result(run_under_torchrun(store, tiny, **values))

    assert len(mlflow.search_runs(output_format="list")) == 2
    assert runs.get_run(together["run_id"]).info.status == "FINISHED"
    assert together["model_version"] == "2"
    for line in (
        "Dataset tiny",
        "Starts from the weights of",
        "MLflow run (eid)",
        "epoch 1/2",
        "Parity:",
        "registered yolox-tiny version 2",
    ):
        assert printed.count(line) == 1

    for metric, tolerance in (
        ("train/loss", 1e-5),
        ("train/loss_bbox", 1e-5),
        ("val/mAP_50", 1e-4),
        ("mAP_50", 1e-4),
    ):
        expected = pytest.approx(get_values(alone["run_id"], metric), rel=tolerance, abs=1e-6)
        assert get_values(together["run_id"], metric) == expected, metric

    before = load_checkpoint(dense_checkpoint).state_dict
    after_alone = load_trained_weights(alone["run_id"], tmp_path)
    after_together = load_trained_weights(together["run_id"], tmp_path)
    assert after_together.keys() == after_alone.keys() == before.keys()
    for name, value in after_alone.items():
        moved = (value - before[name]).float().norm()
        apart = (after_together[name] - value).float().norm()
        if name.startswith(FROZEN_MODULES):
            assert moved == 0, name
            assert apart == 0, name
        else:
            assert apart <= 0.01 * moved + 1e-6 * value.float().norm(), name


@pytest.mark.slow
def test_processes_stop_together_after_uneven_epochs(
    store: str, tiny: Path, dense_checkpoint: Path
) -> None:
    """The last step of 21 images in steps of 4 has one, and each process needs one.

    A rate of 0 gives every epoch the same mAP. In bf16, which has batch norms of its own here.
    """
    values: dict[str, Any] = {
        "precision": "bf16",
        "per_item_lrate": 0.0,
        "min_samples_per_epoch": 21,
        "num_epochs": 9,
        "patience": 1,
    }
    process = run_under_torchrun(store, tiny, **values, load_from=dense_checkpoint)
    first, _ = wait_for_result(process)
    assert get_steps(first["run_id"], "val/mAP") == [1, 2]

    process = run_under_torchrun(store, tiny, **values, continue_from_eid=first["run_id"])
    second, printed = wait_for_result(process)
    assert "after epoch 2 of 9" in printed
    assert get_steps(second["run_id"], "val/mAP") == [3]
