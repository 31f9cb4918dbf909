"""Where the weights of a training come from: the strongest source wins, and a training resumes if nothing else has changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mmengine.config import Config

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.errors import DetregError, NotFoundError, UsageError
from detreg.options import RunOptions
from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.tracking import runs
from detreg.training import checkpoints
from detreg.training.checkpoints import Checkpoint
from detreg.training.initial_weights import (
    PARAMS_FILE,
    InitialWeights,
    choose_initial_weights,
)
from detreg.training.job import Job

YOLOX = TEMPLATES["yolox"]
NANO = {"base_model": "yolox_nano", "pretrained_weights": "none"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six drawn pictures."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "drawn", images=6, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


# the sources of weights ----------------------------------------------------------------------------------------------------------


def state(value: float) -> dict[str, torch.Tensor]:
    """Weights that can be told from others."""
    return {"backbone.weight": torch.full((2,), value)}


def started(dataset: Dataset, **values: Any) -> InitialWeights:
    """Where a training of these hyperparameters starts."""
    return choose_initial_weights(
        YOLOX, build(YOLOX.params, {"base_model": "yolox_nano"} | values), dataset
    )


def number(checkpoint: Checkpoint | None) -> float:
    """Which weights these are."""
    assert checkpoint is not None
    return float(checkpoint.state_dict["backbone.weight"][0])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the published weights, whose number is 1, and other ones, whose number is 2."""
    checkpoints.save_checkpoint(tmp_path / "yolox_nano_coco.pth", Checkpoint(state(1)))
    checkpoints.save_checkpoint(tmp_path / "mine.pth", Checkpoint(state(2), ("boat",)))
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    return tmp_path


def test_pretrained_weights_and_load_from_decide_the_start(dataset: Dataset, files: Path) -> None:
    assert started(dataset, pretrained_weights="none") == InitialWeights(
        "Starts from random weights", backbone_is_filled=False
    )
    assert number(started(dataset, pretrained_weights="coco").weights) == 1
    assert number(started(dataset, pretrained_weights="none", load_from="coco").weights) == 1
    mine = started(dataset, load_from=str(files / "mine.pth"))
    assert number(mine.weights) == 2
    assert "load_from overrides pretrained_weights=coco" in mine.description
    assert (
        "overrides"
        not in started(
            dataset, load_from=str(files / "mine.pth"), pretrained_weights="none"
        ).description
    )


def test_a_file_that_is_not_there_is_named(dataset: Dataset, files: Path) -> None:
    with pytest.raises(NotFoundError, match=r"load_from=.*nothing\.pth is not a file"):
        started(dataset, load_from=str(files / "nothing.pth"))
    with pytest.raises(UsageError, match=r"yolox_m_coco\.pth"):
        started(dataset, base_model="yolox_m")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A tracking store of its own."""
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("trainings", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("trainings")
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def eid(dataset: Dataset, store: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a run that has done 2 of 5 epochs: its best weights have the number 3, its last 4."""
    folder = tmp_path_factory.mktemp("run")
    params = build(YOLOX.params, NANO | {"num_epochs": 5})
    job = Job(
        YOLOX,
        params,
        RunOptions(),
        dataset,
        InitialWeights("Starts from random weights"),
        Config({}),
    )
    checkpoints.save_checkpoint(
        folder / "best.pth", Checkpoint(state(3), dataset.classes, 1, 1, 0.5)
    )
    checkpoints.save_checkpoint(
        folder / "last.pth",
        Checkpoint(state(4), dataset.classes, 2, 1, 0.5, training={"optimizer": {}}),
    )
    with runs.start_run(None, {}) as active:
        active.log_text(json.dumps(job.to_json()), PARAMS_FILE)
        for name in ("best", "last"):
            active.log_file(folder / f"{name}.pth", "checkpoints/0")
        active.set_tags(
            {
                runs.CHECKPOINT: json.dumps(
                    {"epoch": 2, "last": "checkpoints/0/last.pth", "best": "checkpoints/0/best.pth"}
                )
            }
        )
    return active.id


@pytest.mark.parametrize("num_epochs", [5, 9])
def test_the_same_training_resumes(dataset: Dataset, eid: str, num_epochs: int) -> None:
    start = started(
        dataset, pretrained_weights="none", continue_from_eid=eid, num_epochs=num_epochs
    )
    assert (number(start.weights), number(start.resume), start.parent) == (3, 4, eid)
    assert start.resume is not None
    assert start.resume.training == {"optimizer": {}}
    assert f"Resumes run {eid} after epoch 2 of {num_epochs}" in start.description


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_epochs": 2}, "it has done 2 epochs already"),
        ({"num_epochs": 5, "batch_size": 4}, "batch_size was 8, now 4"),
        ({"num_epochs": 5, "image_size": 320}, "image_size was [640], now [320]"),
    ],
)
def test_another_training_starts_anew_from_the_best_weights(
    dataset: Dataset, eid: str, values: dict[str, Any], reason: str
) -> None:
    start = started(dataset, pretrained_weights="none", continue_from_eid=eid, **values)
    assert (number(start.weights), start.resume, start.parent) == (3, None, eid)
    assert reason in start.description


def test_an_eid_overrides_published_weights(dataset: Dataset, eid: str) -> None:
    assert (
        "continue_from_eid overrides pretrained_weights=coco"
        in started(dataset, continue_from_eid=eid, num_epochs=5).description
    )


def test_the_best_weights_of_a_run_can_be_loaded(dataset: Dataset, eid: str) -> None:
    assert number(started(dataset, load_from=f"runs:/{eid}").weights) == 3
    assert number(started(dataset, load_from=f"runs:/{eid}/checkpoints/0/last.pth").weights) == 4


def test_another_dataset_starts_anew(eid: str, tmp_path: Path) -> None:
    write_sample(tmp_path / "drawn", images=3, seed=9, size=(64, 64))
    start = started(
        load_dataset(tmp_path / "drawn", tmp_path),
        pretrained_weights="none",
        continue_from_eid=eid,
        num_epochs=5,
    )
    assert start.resume is None
    assert "its dataset is another one" in start.description


@pytest.mark.parametrize("wrong", ["boats", "0" * 32])
def test_a_wrong_eid_is_refused(dataset: Dataset, store: None, wrong: str) -> None:
    with pytest.raises(NotFoundError, match=wrong):
        started(dataset, pretrained_weights="none", continue_from_eid=wrong)


def test_a_run_without_a_checkpoint_is_refused(dataset: Dataset, store: None) -> None:
    with runs.start_run(None, {}) as active:
        pass
    with pytest.raises(DetregError, match="no checkpoint"):
        started(dataset, pretrained_weights="none", continue_from_eid=active.id)
