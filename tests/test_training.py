"""A training and its run, and what continues from it; all of it real, on thirty small images."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from conftest import TINY
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mmengine.runner import Runner
from torch import Tensor

import detreg
from detreg.errors import (
    DataError,
    NotFoundError,
    RefusedError,
    StoppedError,
    UndeliveredError,
    UsageError,
)
from detreg.export.decode import selection
from detreg.inference.detector import Detector
from detreg.tasks.sync import sync_runs
from detreg.tracking import run as run_module
from detreg.tracking import runs
from detreg.tracking.sender import Patience
from detreg.training import checkpointing
from detreg.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from detreg.training.epoch_hooks import LossMeter

METRICS = {
    "train/loss",
    "train/loss_cls",
    "train/loss_bbox",
    "train/loss_obj",
    "train/lr",
    "val/mAP",
    "val/mAP_50",
    "val/mAP_75",
    "mAP",
    "mAP_50",
    "mAP_75",
    "test/mAP",
    "parity/matched",
    "operating_point/score_threshold",
    "operating_point/recall",
    "test/recall",
    "val/AP/boat",
    "val/AP/house",
    "val/AP/balloon",
}
"""What a run of yolox on the drawn classes has; the first eight for each epoch."""


def train(data: Path, **values: Any) -> dict[str, Any]:
    return detreg.train("yolox", data=str(data), **TINY | values)


def load_last(eid: str, folder: Path) -> Checkpoint:
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    return load_checkpoint(runs.download_artifact(eid, stored.last, folder / eid))


def load_best(eid: str, folder: Path) -> Checkpoint:
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    return load_checkpoint(runs.download_artifact(eid, stored.best, folder / eid))


def get_steps(eid: str, metric: str) -> list[int]:
    return [entry.step for entry in MlflowClient().get_metric_history(eid, metric)]


def get_last_run() -> MlflowRun:
    found = mlflow.search_runs(
        order_by=["attributes.start_time DESC"], max_results=1, output_format="list"
    )
    assert isinstance(found, list)
    return found[0]


@pytest.fixture(scope="module")
def trained(store: str, tiny: Path) -> dict[str, Any]:
    """Train once for all tests of this file; return what `detreg train --json` prints."""
    return train(tiny)


def test_a_run_holds_what_is_promised(trained: dict[str, Any], tiny: Path) -> None:
    run = runs.get_run(trained["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["image_size"] == "64"
    assert run.data.params["load_from"] == "none"
    assert run.data.params["seed"] == "0"
    assert run.data.tags["detreg.template"] == "yolox"
    assert run.data.tags["detreg.version"] == detreg.__version__

    assert run.data.metrics.keys() >= METRICS
    assert get_steps(run.info.run_id, "val/mAP") == [1, 2]
    assert get_steps(run.info.run_id, "train/loss") == [1, 2]

    assert run.inputs is not None
    contexts = {}
    for logged in run.inputs.dataset_inputs:
        assert json.loads(str(logged.dataset.source)) == {"uri": str(tiny)}
        assert logged.dataset.digest == trained["dataset_digest"]
        contexts[logged.dataset.name] = logged.tags[0].value
    assert contexts == {"tiny": "training", "tiny-val": "validation", "tiny-test": "testing"}
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.digest == trained["dataset_digest"]
    assert json.loads(str(dataset.schema))["classes"] == ["balloon", "boat", "house"]

    artifacts = {file.path for file in MlflowClient().list_artifacts(run.info.run_id)}
    assert artifacts >= {"config.py", "params.json", "report", "report_test", "checkpoints"}
    assert "dataset.html" in artifacts
    assert "operating_point.json" in artifacts


def test_the_card_has_the_operating_point_that_is_logged(trained: dict[str, Any]) -> None:
    run = runs.get_run(trained["run_id"])
    card = Detector.load(trained["run_id"]).card
    point = card.operating_point
    assert point is not None
    assert card.score_threshold == point.overall.score_threshold
    assert run.data.metrics["operating_point/score_threshold"] == card.score_threshold
    assert run.data.params["operating_point"] == "f1"
    assert run.data.params["score_threshold"] == "auto"
    assert float(run.data.params["score_threshold.resolved"]) == card.score_threshold
    assert run.data.tags["detreg.operating_point"] == point.description


def test_the_page_of_the_dataset_shows_what_the_training_sees(
    trained: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    page = runs.download_artifact(trained["run_id"], "dataset.html", tmp_path).read_text()
    assert "What training sees" in page
    assert "64 x 64 px" in page
    assert str(tiny) in page


def test_a_model_that_finds_nothing_is_registered_as_challenger(trained: dict[str, Any]) -> None:
    """It finds nothing after four steps."""
    assert trained["mAP"] < 0.00005
    assert trained["alias"] == "challenger"
    assert "finds nothing" in trained["reason"]
    version = MlflowClient().get_model_version_by_alias("yolox-tiny", "challenger")
    assert version.run_id == trained["run_id"]
    assert str(version.version) == trained["model_version"]


DETECT_WITHOUT_TORCH = """
import sys
from detreg import Detector
from detreg.inference.images import read_image

detector = Detector.load("models:/yolox-tiny@challenger")
found = detector(read_image(sys.argv[1]), score_threshold=0.0)
heavy = sorted({"torch", "mmdet", "mmcv", "mmengine"} & set(sys.modules))
print(found.boxes.dtype, found.labels.dtype, heavy)
"""


def test_the_registered_model_detects_without_torch(
    trained: dict[str, Any], store: str, tiny: Path
) -> None:
    image = next(tiny.rglob("*.jpg"))
    command = [sys.executable, "-c", DETECT_WITHOUT_TORCH, str(image)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "float32 int64 []"


def test_more_epochs_resume_and_continue_the_metrics(
    trained: dict[str, Any], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = train(tiny, num_epochs=3, continue_from_eid=trained["run_id"])
    assert f"Resumes run {trained['run_id']} after epoch 2 of 3" in capsys.readouterr().out
    assert get_steps(child["run_id"], "val/mAP") == [3]
    assert runs.get_run(child["run_id"]).data.tags["detreg.parent_eid"] == trained["run_id"]


def kill_after_first_epoch(data: Path, store: str, experiment_id: str, **values: Any) -> str:
    """Train in another process, kill it after its first epoch, and return the run's id."""
    command = [sys.executable, "-m", "detreg", "train", "yolox", "--data", str(data)]
    for name, value in {**TINY, **values}.items():
        command += [f"--{name}", str(value)]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_EXPERIMENT_ID": experiment_id,
    }
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    eid = ""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("MLflow run (eid)"):
            eid = line.split()[3]
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return eid


def test_resume_is_bit_exact(store: str, tiny: Path, tmp_path: Path) -> None:
    """With kill -9, two loading processes, an average of the weights, and bf16."""
    values = {"num_epochs": 3, "num_workers": 2, "random_resize_upper": 96}
    whole = train(tiny, **values, precision="bf16")
    experiment_id = runs.get_run(whole["run_id"]).info.experiment_id
    eid = kill_after_first_epoch(tiny, store, experiment_id, **values, precision="bf16")

    # What was not uploaded before the kill is in the cache, from where it comes first. The
    # precision is that of the killed run, though precision=auto would take another one here.
    resumed = train(tiny, **values, continue_from_eid=eid)
    assert runs.get_run(resumed["run_id"]).data.params["precision.resolved"] == "bf16"
    done = load_last(eid, tmp_path).epoch
    assert 1 <= done < 3
    assert runs.get_run(eid).info.status == "KILLED"
    assert get_steps(resumed["run_id"], "val/mAP") == list(range(done + 1, 4))
    assert resumed["mAP"] == whole["mAP"]

    expected = load_last(whole["run_id"], tmp_path)
    actual = load_last(resumed["run_id"], tmp_path)
    assert [entry.train for entry in actual.history] == [entry.train for entry in expected.history]
    assert actual.state_dict.keys() == expected.state_dict.keys()
    for name, value in expected.state_dict.items():
        assert torch.equal(actual.state_dict[name], value), name


def find_changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_frozen_stages_do_not_change(trained: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    source = f"runs:/{trained['run_id']}"
    frozen = train(tiny, num_epochs=1, load_from=source, frozen_stages=2)
    before = load_best(trained["run_id"], tmp_path).state_dict
    changed = find_changed(before, load_last(frozen["run_id"], tmp_path).state_dict)

    frozen_modules = ("backbone.stem.", "backbone.stage1.", "backbone.stage2.")
    assert not {name for name in changed if name.startswith(frozen_modules)}
    third_stage = {name for name in changed if name.startswith("backbone.stage3.")}
    assert any(name.endswith("running_mean") for name in third_stage)


def test_a_rate_of_zero_changes_nothing(
    trained: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    source = f"runs:/{trained['run_id']}"
    still = train(tiny, num_epochs=1, load_from=source, frozen_stages=2, per_item_lrate=0.0)
    before = load_best(trained["run_id"], tmp_path).state_dict
    changed = find_changed(before, load_last(still["run_id"], tmp_path).state_dict)
    assert changed == set()


def test_an_interruption_keeps_the_last_finished_epoch(
    store: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads are held back here after the first one, as by a slow artifact store."""
    before_train_epoch = LossMeter.before_train_epoch

    def interrupt_third_epoch(self: LossMeter, runner: Runner) -> None:
        before_train_epoch(self, runner)
        if runner.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpointing, "UPLOAD_SHARE", 0.0)
    monkeypatch.setattr(LossMeter, "before_train_epoch", interrupt_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, num_epochs=4)

    run = get_last_run()
    assert run.info.status == "KILLED"
    assert run.data.tags["detreg.failure"] == "interrupted"
    assert load_last(run.info.run_id, tmp_path).epoch == 2


def test_a_tracking_server_that_goes_away_costs_nothing(
    store: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone from the first epoch on: no write arrives until `detreg sync`."""

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    def lose_server(self: LossMeter, runner: Runner) -> None:
        for name in ("log_batch", "log_artifact", "log_artifacts", "set_terminated"):
            patch.setattr(MlflowClient, name, fail)
        before_train_epoch(self, runner)

    before_train_epoch = LossMeter.before_train_epoch
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(LossMeter, "before_train_epoch", lose_server)
        patch.setattr(run_module, "PATIENCE", Patience(failing=0, hanging=1200))
        with pytest.raises(UndeliveredError, match="detreg sync") as caught:
            train(tiny, registered_model_name="away")
        assert caught.value.exit_code == 75
    run_id = get_last_run().info.run_id
    assert get_steps(run_id, "val/mAP") == []

    assert not sync_runs(run_id).has_problems
    run = runs.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert get_steps(run_id, "val/mAP") == [1, 2]
    assert set(run.data.metrics) >= METRICS
    assert load_last(run_id, tmp_path).epoch == 2
    (version,) = MlflowClient().search_model_versions("name = 'away'")
    assert version.run_id == run_id


def test_patience_ends_a_training(store: str, tiny: Path, dense_checkpoint: Path) -> None:
    """A rate of 0 gives every epoch the same mAP, which is above 0 with these weights."""
    stopped = train(
        tiny,
        num_epochs=9,
        patience=1,
        per_item_lrate=0.0,
        min_samples_per_epoch=4,
        load_from=str(dense_checkpoint),
    )
    assert get_steps(stopped["run_id"], "val/mAP") == [1, 2]


def test_a_loss_that_is_nan_stops_with_advice(
    trained: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    checkpoint = load_last(trained["run_id"], tmp_path)
    broken = {}
    for name, value in checkpoint.state_dict.items():
        broken[name] = value * float("nan") if value.is_floating_point() else value
    save_checkpoint(tmp_path / "broken.pth", Checkpoint(broken, checkpoint.classes))

    with pytest.raises(StoppedError, match=r"NaN or infinite in epoch 1: halve per_item_lrate"):
        train(tiny, load_from=str(tmp_path / "broken.pth"))
    run = get_last_run()
    assert run.info.status == "FAILED"
    assert "halve per_item_lrate" in run.data.tags["detreg.failure"]


def test_a_model_that_disagrees_is_not_registered(
    trained: dict[str, Any], tiny: Path, dense_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select_detections = selection.select_detections

    def select_shifted(candidates: selection.DecodedBoxes, *limits: Any) -> selection.DecodedBoxes:
        shifted = candidates._replace(boxes=candidates.boxes + 3.0)  # pixels
        return select_detections(shifted, *limits)

    monkeypatch.setattr(selection, "select_detections", select_shifted)
    client = MlflowClient()
    versions = len(client.search_model_versions("name = 'yolox-tiny'"))
    with pytest.raises(RefusedError, match="disagrees with the trained one"):
        train(tiny, num_epochs=1, load_from=str(dense_checkpoint), per_item_lrate=0.0)
    assert len(client.search_model_versions("name = 'yolox-tiny'")) == versions


def test_bad_eids_are_refused_before_anything_starts(store: str, tiny: Path) -> None:
    with mlflow.start_run() as empty:
        pass
    with mlflow.start_run() as deleted:
        pass
    MlflowClient().delete_run(deleted.info.run_id)

    before = len(mlflow.search_runs(output_format="list"))
    for eid, words in (
        ("latest", "is not the id of an MLflow run"),
        ("0" * 32, "no run 0000"),
        (empty.info.run_id, "has no checkpoint to continue from"),
        (deleted.info.run_id, "is deleted"),
    ):
        with pytest.raises(NotFoundError, match=words):
            train(tiny, continue_from_eid=eid)
    assert len(mlflow.search_runs(output_format="list")) == before


def test_weights_of_another_width_are_refused(trained: dict[str, Any], tiny: Path) -> None:
    source = f"runs:/{trained['run_id']}"
    with pytest.raises(
        DataError, match="nothing of the checkpoint's backbone fits this base model"
    ):
        train(tiny, load_from=source, base_model="yolox_tiny")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("option", [{"precision": "fp16"}, {"amp": True}])
def test_fp16_needs_a_gpu(option: dict[str, object], store: str, tiny: Path) -> None:
    with pytest.raises(UsageError, match="precision=fp16 needs a GPU"):
        train(tiny, **option)
