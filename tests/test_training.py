"""A training, its run, and what goes on from it; all of it real, on a dataset of thirty pictures."""

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
from conftest import SMALL, TINY
from mlflow import MlflowClient

import detreg
from detreg.data.dataset import load_dataset
from detreg.errors import DataError, NotFoundError, RefusedError, StoppedError, UsageError
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.tracking import runs
from detreg.training import checkpointing
from detreg.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from detreg.training.epoch_hooks import LossMeter
from detreg.training.initial_weights import choose_initial_weights
from detreg.training.job import log_job, prepare_job


def last_checkpoint(eid: str, folder: Path) -> Checkpoint:
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    return load_checkpoint(runs.download_artifact(eid, stored.last, folder))


def steps(eid: str, metric: str) -> list[int]:
    return [entry.step for entry in MlflowClient().get_metric_history(eid, metric)]


@pytest.fixture(scope="module")
def trained(store: str, tiny: Path) -> dict[str, Any]:
    return detreg.train("yolox", data=str(tiny), **TINY)


def test_a_run_holds_everything_that_is_promised(trained: dict[str, Any]) -> None:
    run = runs.get_run(trained["run_id"])
    assert run.info.status == "FINISHED"
    assert (
        run.data.params["image_size"] == "64"
        and run.data.params["load_from"] == "none"
        and run.data.params["seed"] == "0"
    )
    assert (
        run.data.tags["detreg.template"] == "yolox"
        and run.data.tags["detreg.version"] == detreg.__version__
    )
    wanted = {
        "train/loss",
        "train/loss_cls",
        "train/loss_bbox",
        "train/loss_obj",
        "train/lr",
        "val/mAP",
        "val/mAP_50",
        "val/mAP_75",
    }
    wanted |= {
        "mAP",
        "mAP_50",
        "mAP_75",
        "test/mAP",
        "parity/matched",
        "val/AP/boat",
        "val/AP/house",
        "val/AP/balloon",
    }
    assert wanted <= run.data.metrics.keys()
    assert steps(run.info.run_id, "val/mAP") == steps(run.info.run_id, "train/loss") == [1, 2]
    entity = run.inputs.dataset_inputs[0].dataset
    assert entity.digest == trained["dataset_digest"] and json.loads(entity.schema)["classes"] == [
        "balloon",
        "boat",
        "house",
    ]
    names = {file.path for file in MlflowClient().list_artifacts(run.info.run_id)}
    assert {"config.py", "params.json", "report", "checkpoints"} <= names
    # After four steps it finds nothing, and what finds nothing is no champion.
    assert (
        trained["mAP"] < 0.00005
        and trained["alias"] == "challenger"
        and "finds nothing" in trained["reason"]
    )
    version = MlflowClient().get_model_version_by_alias("yolox", "challenger")
    assert version.run_id == run.info.run_id and str(version.version) == trained["model_version"]


def test_an_auto_rate_is_printed_and_logged_as_the_number(
    store: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = find_template("ssd")
    values = SMALL["ssd"] | {"base_model": "ssd300_vgg16", "image_size": 300}
    params, options = parse_settings(template, values)
    job = prepare_job(template, params, options, load_dataset(str(tiny)))
    assert (
        "per_item_lrate=3.125e-05, the published value of ssd300_vgg16 (per_item_lrate=auto)"
        in capsys.readouterr().out
    )
    with runs.start_run(None, job.tags) as active:
        active.log_params({"per_item_lrate": "auto"})  # as `mlflow run` does before detreg begins
        log_job(active, job)
    logged = runs.get_run(active.id).data.params
    assert logged["per_item_lrate"] == "auto" and logged["per_item_lrate.resolved"] == "3.125e-05"
    assert job.to_json()["hyperparameters"]["per_item_lrate"] == 0.002 / 64


def test_small_images_are_warned_of_on_the_terminal_and_in_a_tag(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = find_template("yolox")
    params, options = parse_settings(
        template, TINY | {"image_size": 96, "random_resize_upper": 128}
    )
    job = prepare_job(template, params, options, load_dataset(str(tiny)))
    told = capsys.readouterr().err
    assert told.startswith(
        "Warning: 20 of 20 training images (100%) are smaller than random_resize_lower=96"
    )
    assert job.tags[runs.WARNING] in told


def test_the_registered_model_detects_without_torch(
    trained: dict[str, Any], store: str, tiny: Path
) -> None:
    picture = next(tiny.rglob("*.jpg"))
    code = (
        "import sys; from detreg import Detector; from detreg.inference.images import read_image\n"
        f"found = Detector.load('models:/yolox@challenger')(read_image({str(picture)!r}), score_threshold=0.0)\n"
        "print(found.boxes.dtype, found.labels.dtype, sorted({'torch', 'mmdet', 'mmcv', 'mmengine'} & set(sys.modules)))"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "float32 int64 []"


def test_more_epochs_resume_and_metrics_go_on(
    trained: dict[str, Any], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = TINY | {"num_epochs": 3, "continue_from_eid": trained["run_id"]}
    child = detreg.train("yolox", data=str(tiny), **values)
    assert f"Resumes run {trained['run_id']} after epoch 2 of 3" in capsys.readouterr().out
    assert steps(child["run_id"], "val/mAP") == [3]
    assert runs.get_run(child["run_id"]).data.tags["detreg.parent_eid"] == trained["run_id"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": "other"}, "its dataset is another one"),
        (
            {"per_item_lrate": 0.001},
            "hyperparameters differ: per_item_lrate was 0.00015625, now 0.001",
        ),
        ({}, "it has done 2 epochs already and num_epochs=2"),
    ],
)
def test_what_differs_starts_from_the_weights_and_says_why(
    change: dict[str, Any], reason: str, trained: dict[str, Any], tiny: Path, other: Path
) -> None:
    values = TINY | {"continue_from_eid": trained["run_id"]} | change
    data = {"other": other}.get(values.pop("data", ""), tiny)
    template = find_template("yolox")
    params, _ = parse_settings(template, values)
    start = choose_initial_weights(template, template.resolve(params), load_dataset(data))
    assert start.description.startswith(
        f"Starts a new training from the best weights of run {trained['run_id']}, because {reason}"
    )
    assert start.resume is None and start.weights is not None and start.parent == trained["run_id"]


def test_a_killed_training_ends_as_the_uninterrupted_one(
    store: str, tiny: Path, tmp_path: Path
) -> None:
    """kill -9 after the first epoch, with two loading processes and an average of the weights; then on to the end."""
    values = TINY | {"num_epochs": 3, "num_workers": 2, "random_resize_upper": 96}
    whole = detreg.train("yolox", data=str(tiny), **values)
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    experiment = runs.get_run(whole["run_id"]).info.experiment_id
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_ID": experiment}
    command = [sys.executable, "-m", "detreg", "train", "yolox", "--data", str(tiny), *words]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    eid = ""
    for line in process.stdout:
        if line.startswith("MLflow run (eid)"):
            eid = line.split()[3]
        if line.startswith("epoch 1/3"):
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    done = last_checkpoint(eid, tmp_path / "killed").epoch
    assert 1 <= done < 3

    resumed = detreg.train("yolox", data=str(tiny), **values, continue_from_eid=eid)
    assert steps(resumed["run_id"], "val/mAP") == list(range(done + 1, 4))
    a, b = (
        last_checkpoint(result["run_id"], tmp_path / result["run_id"])
        for result in (whole, resumed)
    )
    assert [entry.train["loss"] for entry in a.history] == [
        entry.train["loss"] for entry in b.history
    ]
    assert all(torch.equal(value, b.state_dict[name]) for name, value in a.state_dict.items())
    assert resumed["mAP"] == whole["mAP"]


def test_frozen_stages_and_a_rate_of_zero_leave_the_weights_alone(
    trained: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    values = TINY | {"num_epochs": 1, "load_from": f"runs:/{trained['run_id']}", "frozen_stages": 2}
    frozen = detreg.train("yolox", data=str(tiny), **values)
    still = detreg.train("yolox", data=str(tiny), **values | {"per_item_lrate": 0.0})
    stored = runs.find_checkpoints(trained["run_id"])
    assert stored is not None
    before = load_checkpoint(
        runs.download_artifact(trained["run_id"], stored.best, tmp_path)
    ).state_dict
    after = last_checkpoint(frozen["run_id"], tmp_path / "frozen").state_dict
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed, "nothing was trained"
    assert not [
        name
        for name in changed
        if name.startswith(("backbone.stem.", "backbone.stage1.", "backbone.stage2."))
    ]
    assert any(
        name.startswith("backbone.stage3.") and name.endswith("running_mean") for name in changed
    )
    after = last_checkpoint(still["run_id"], tmp_path / "still").state_dict
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(
        torch.equal(value, before[name])
        for name, value in after.items()
        if not name.endswith(statistics)
    )


def test_an_interruption_keeps_the_last_finished_epoch(
    trained: dict[str, Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads are held back here after the first, as a slow artifact store does."""
    before_train_epoch = LossMeter.before_train_epoch

    def interrupted(self: LossMeter, runner: Any) -> None:
        before_train_epoch(self, runner)
        if runner.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpointing, "UPLOAD_SHARE", 0.0)
    monkeypatch.setattr(LossMeter, "before_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detreg.train("yolox", data=str(tiny), **TINY | {"num_epochs": 4})
    killed = mlflow.search_runs(
        order_by=["attributes.start_time DESC"], max_results=1, output_format="list"
    )[0]
    assert killed.info.status == "KILLED" and killed.data.tags["detreg.failure"] == "interrupted"
    assert last_checkpoint(killed.info.run_id, tmp_path).epoch == 2


def test_patience_stops(trained: dict[str, Any], tiny: Path, dense_checkpoint: Path) -> None:
    values = TINY | {
        "num_epochs": 9,
        "patience": 1,
        "per_item_lrate": 0.0,
        "min_samples_per_epoch": 4,
    }
    values["load_from"] = str(
        dense_checkpoint
    )  # of a network that has learned nothing there is nothing to compare
    stopped = detreg.train("yolox", data=str(tiny), **values)
    assert steps(stopped["run_id"], "val/mAP") == [1, 2]


def test_a_loss_that_is_no_number_stops_with_advice(
    trained: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    checkpoint = last_checkpoint(trained["run_id"], tmp_path)
    broken = {
        name: torch.full_like(value, float("nan")) if value.is_floating_point() else value
        for name, value in checkpoint.state_dict.items()
    }
    save_checkpoint(tmp_path / "broken.pth", Checkpoint(broken, checkpoint.classes))
    with pytest.raises(StoppedError, match=r"NaN or infinite in epoch 1: halve per_item_lrate"):
        detreg.train("yolox", data=str(tiny), **TINY | {"load_from": str(tmp_path / "broken.pth")})
    failed = mlflow.search_runs(
        order_by=["attributes.start_time DESC"], max_results=1, output_format="list"
    )[0]
    assert (
        failed.info.status == "FAILED"
        and "halve per_item_lrate" in failed.data.tags["detreg.failure"]
    )


def test_a_model_that_disagrees_is_not_registered(
    trained: dict[str, Any], tiny: Path, dense_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detreg.export.decode import selection

    select_detections = selection.select_detections

    def select_shifted(candidates: selection.DecodedBoxes, *limits: Any) -> selection.DecodedBoxes:
        shifted = candidates._replace(boxes=candidates.boxes + 3.0)  # three pixels off
        return select_detections(shifted, *limits)

    monkeypatch.setattr(selection, "select_detections", select_shifted)
    versions = len(MlflowClient().search_model_versions("name = 'yolox'"))
    with pytest.raises(RefusedError, match="disagrees with the trained one"):
        detreg.train(
            "yolox",
            data=str(tiny),
            **TINY | {"num_epochs": 1, "load_from": str(dense_checkpoint), "per_item_lrate": 0.0},
        )
    assert len(MlflowClient().search_model_versions("name = 'yolox'")) == versions


def test_bad_eids_are_refused_before_anything_starts(trained: dict[str, Any], tiny: Path) -> None:
    def attempt(eid: str) -> None:
        detreg.train("yolox", data=str(tiny), **TINY, continue_from_eid=eid)

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
            attempt(eid)
    assert len(mlflow.search_runs(output_format="list")) == before


def test_weights_of_another_width_are_refused(trained: dict[str, Any], tiny: Path) -> None:
    source = f"runs:/{trained['run_id']}"
    with pytest.raises(
        DataError, match="nothing of the checkpoint's backbone fits this base model"
    ):
        detreg.train(
            "yolox", data=str(tiny), **TINY | {"load_from": source, "base_model": "yolox_tiny"}
        )


def test_amp_needs_a_gpu(store: str, tiny: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="amp=true needs a GPU"):
        detreg.train("yolox", data=str(tiny), **TINY, amp=True)
