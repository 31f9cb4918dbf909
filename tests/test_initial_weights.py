"""What a training starts from: the strongest source, and a run is resumed if nothing differs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mmengine.config import Config

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.defaults import FEW_IMAGES
from detreg.defaults import PUBLISHED as PUBLISHED_RECIPE
from detreg.errors import DataError, DetregError, NotFoundError, UsageError
from detreg.options import RunOptions
from detreg.params import build
from detreg.templates import find_template
from detreg.templates.common_params import CommonParams
from detreg.tracking import runs
from detreg.tracking.runs import StoredCheckpoints
from detreg.training import backbones, initial_weights
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.initial_weights import (
    InitialWeights,
    choose_initial_weights,
    load_named_weights,
)
from detreg.training.job import Job, log_job
from detreg.training.settling import Settled, settle

YOLOX = find_template("yolox")
NANO = {"base_model": "yolox_nano", "pretrained_weights": "none"}

PUBLISHED, MINE, BEST, LAST = 1.0, 2.0, 3.0, 4.0
"""By this number a test recognizes weights."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return six drawn images."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "drawn", images=6, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


@pytest.fixture(autouse=True)
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder DETREG_WEIGHTS with a published file, and a file of another name."""
    save_checkpoint(tmp_path / "yolox_nano_coco.pth", Checkpoint(make_weights(PUBLISHED)))
    save_checkpoint(tmp_path / "mine.pth", Checkpoint(make_weights(MINE), ("boat",)))
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    return tmp_path


def make_weights(number: float) -> dict[str, torch.Tensor]:
    return {"backbone.weight": torch.full((2,), number)}


def get_number(checkpoint: Checkpoint | None) -> float:
    assert checkpoint is not None
    return float(checkpoint.state_dict["backbone.weight"][0])


def choose(dataset: Dataset, **values: Any) -> InitialWeights:
    params = build(YOLOX.params, {"base_model": "yolox_nano", **values})
    settled = settle(YOLOX, params, RunOptions(), dataset)
    return choose_initial_weights(YOLOX, settled.params, dataset, settled.options)


def test_without_a_source_weights_are_random(dataset: Dataset) -> None:
    chosen = choose(dataset, pretrained_weights="none")
    assert chosen == InitialWeights("Starts from random weights", backbone_is_filled=False)


@pytest.mark.parametrize(
    "values",
    [{"pretrained_weights": "coco"}, {"pretrained_weights": "none", "load_from": "coco"}],
)
def test_published_weights_are_named_by_two_parameters(
    values: dict[str, str], dataset: Dataset
) -> None:
    chosen = choose(dataset, **values)
    assert get_number(chosen.weights) == PUBLISHED
    assert chosen.description == "Starts from the weights published for yolox_nano on COCO"


def test_a_checkpoint_is_stronger_than_published_weights(
    dataset: Dataset, weights_folder: Path
) -> None:
    path = str(weights_folder / "mine.pth")
    chosen = choose(dataset, load_from=path)
    assert get_number(chosen.weights) == MINE
    assert chosen.weights is not None
    assert chosen.weights.classes == ("boat",)
    assert chosen.description.endswith("load_from overrides pretrained_weights=coco")

    alone = choose(dataset, load_from=path, pretrained_weights="none")
    assert alone.description == f"Starts from the weights of {path}"


def test_a_file_that_does_not_exist_is_named(dataset: Dataset, weights_folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"load_from=.*nothing\.pth is not a file"):
        choose(dataset, load_from=str(weights_folder / "nothing.pth"))
    with pytest.raises(UsageError, match=r"yolox_m_coco\.pth"):
        choose(dataset, base_model="yolox_m")


def test_a_file_that_is_no_checkpoint_is_refused(dataset: Dataset, weights_folder: Path) -> None:
    (weights_folder / "notes.txt").write_text("weights")
    with pytest.raises(DataError, match="broken"):
        choose(dataset, load_from=str(weights_folder / "notes.txt"))


@pytest.mark.parametrize(
    ("name", "values", "advice"),
    [
        ("inception_v4", {"pretrained_weights": "coco"}, "take pretrained_weights=imagenet|none"),
        ("inception_v2", {"pretrained_weights": "coco"}, "take pretrained_weights=imagenet|none"),
        (
            "msc10",
            {"pretrained_weights": "coco"},
            "take pretrained_weights=none|imagenet, or base_model=resnet50|resnet101",
        ),
        (
            "msc10",
            {"pretrain_base_data": "mscoco"},
            "take pretrain_base_data=imagenet|none, or base_model=resnet50|resnet101",
        ),
        ("inception_v4", {"load_from": "coco"}, "leave load_from out"),
        (
            "yolox",
            {"base_model": "yolox_m"},
            "take pretrained_weights=none, or base_model=yolox_tiny|yolox_s|yolox_l|yolox_x",
        ),
    ],
)
def test_without_published_weights_the_advice_is_on_the_parameter_that_asked(
    name: str, values: dict[str, str], advice: str
) -> None:
    template = find_template(name)
    asked_by = "pretrained_weights" if "base_model" in values else next(iter(values))
    with pytest.raises(UsageError) as caught:
        load_named_weights(template, build(template.params, values))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{asked_by}: nobody published COCO weights of")
    assert problem.endswith(advice)


@pytest.mark.parametrize(
    ("values", "description", "keys"),
    [
        (
            {},
            "Starts from the weights published for the backbone of resnet50 on ImageNet",
            {"backbone.weight"},
        ),
        ({"pretrain_base_data": "none"}, "Starts from random weights", None),
        (
            {"pretrain_base_data": "mscoco"},
            "Starts from the weights published for the backbone of resnet50 on COCO",
            {"backbone.w"},
        ),
        (
            {"pretrained_weights": "coco"},
            "Starts from the weights published for resnet50 on COCO; "
            "pretrained_weights overrides pretrain_base_data=imagenet",
            {"backbone.w", "head.w"},
        ),
        (
            {"load_from": "coco", "pretrained_weights": "imagenet"},
            "Starts from the weights published for resnet50 on COCO; "
            "load_from overrides pretrained_weights=imagenet, pretrain_base_data=imagenet",
            {"backbone.w", "head.w"},
        ),
    ],
)
def test_the_data_of_the_base_model_is_the_weakest_source(
    values: dict[str, str],
    description: str,
    keys: set[str] | None,
    dataset: Dataset,
    weights_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {"backbone.w": torch.ones(1), "head.w": torch.ones(1)}
    save_checkpoint(weights_folder / "msc10_resnet50_coco.pth", Checkpoint(weights, ("boat",)))
    monkeypatch.setattr(backbones, "load_imagenet_weights", lambda _: make_weights(PUBLISHED))

    msc10 = find_template("msc10")
    params = build(msc10.params, {"base_model": "resnet50"} | values)
    chosen = choose_initial_weights(msc10, params, dataset, RunOptions())
    assert chosen.description == description
    if keys is None:
        assert chosen.weights is None
    else:
        assert chosen.weights is not None
        assert set(chosen.weights.state_dict) == keys


# runs that are continued


def test_masks_are_compared_where_they_are_learned(
    dataset: Dataset, store: str, tmp_path: Path
) -> None:
    template = find_template("faster_rcnn")
    given = build(template.params, {"pretrained_weights": "none", "num_epochs": 5, "masks": True})
    params = template.resolve(given)
    with_masks = replace(dataset, masks_digest="0123456789abcdef")
    weights = InitialWeights("Starts from random weights")
    options = RunOptions(metric="segm_mAP")  # what auto becomes
    job = Job(template, params, options, with_masks, weights, Config({}))
    continued = replace(params, continue_from_eid=log_stopped_run(job, tmp_path))

    def describe(params: CommonParams, dataset: Dataset) -> str:
        return choose_initial_weights(template, params, dataset, RunOptions()).description

    assert describe(continued, with_masks).startswith("Resumes run")
    others = replace(dataset, masks_digest="fedcba9876543210")
    reason = "its masks are others (digest 0123456789abcdef, now fedcba9876543210)"
    assert reason in describe(continued, others)
    by_boxes = RunOptions(metric="mAP")
    chosen = choose_initial_weights(template, continued, with_masks, by_boxes)
    assert "metric was segm_mAP, now mAP" in chosen.description
    without = replace(continued, masks=False)  # type: ignore[call-arg]
    assert "hyperparameters differ: masks was True, now False" in describe(without, dataset)


def test_a_run_of_a_version_without_masks_is_resumed(
    dataset: Dataset, store: str, tmp_path: Path
) -> None:
    template = find_template("faster_rcnn")
    params = template.resolve(build(template.params, {"num_epochs": 5}))
    weights = InitialWeights("Starts from random weights")
    job = Job(template, params, RunOptions(), dataset, weights, Config({}))
    eid = log_stopped_run(job, tmp_path)
    logged = json.loads(runs.download_artifact(eid, "params.json", tmp_path / "x").read_text())
    del logged["hyperparameters"]["masks"]
    (tmp_path / "params.json").write_text(json.dumps(logged))
    MlflowClient().log_artifact(eid, str(tmp_path / "params.json"))

    continued = replace(params, continue_from_eid=eid)
    chosen = choose_initial_weights(template, continued, dataset, RunOptions())
    assert chosen.resume is not None


@pytest.fixture(scope="module")
def eid(dataset: Dataset, store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the id of a run that has done 2 of 5 epochs."""
    params = YOLOX.resolve(build(YOLOX.params, NANO | {"num_epochs": 5}))
    weights = InitialWeights("Starts from random weights")
    job = Job(YOLOX, params, RunOptions(), dataset, weights, Config({}))
    return log_stopped_run(job, tmp_path_factory.mktemp("run"))


def log_stopped_run(job: Job, folder: Path) -> str:
    """Log a run that has done 2 epochs; return its id."""
    dataset = job.dataset
    best = Checkpoint(make_weights(BEST), dataset.classes, 1, 1, 0.5)
    last = Checkpoint(make_weights(LAST), dataset.classes, 2, 1, 0.5, training={"optimizer": {}})
    save_checkpoint(folder / "best.pth", best)
    save_checkpoint(folder / "last.pth", last)

    with runs.start_run(None, {}) as run:
        log_job(run, job)
        for name in ("best.pth", "last.pth"):
            run.log_file(folder / name, "checkpoints/0")
        run.tag_checkpoints(
            StoredCheckpoints(2, last="checkpoints/0/last.pth", best="checkpoints/0/best.pth")
        )
    return run.id


def continue_run(dataset: Dataset, eid: str, **values: Any) -> InitialWeights:
    return choose(dataset, **{"pretrained_weights": "none", "continue_from_eid": eid, **values})


@pytest.mark.parametrize("num_epochs", [5, 9])
def test_the_same_training_resumes(dataset: Dataset, eid: str, num_epochs: int) -> None:
    chosen = continue_run(dataset, eid, num_epochs=num_epochs)
    assert get_number(chosen.weights) == BEST
    assert get_number(chosen.resume) == LAST
    assert chosen.resume is not None
    assert chosen.resume.training == {"optimizer": {}}
    assert chosen.parent == eid
    assert f"Resumes run {eid} after epoch 2 of {num_epochs}" in chosen.description


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_epochs": 2}, "it has done 2 epochs already and num_epochs=2"),
        ({"num_epochs": 5, "batch_size": 4}, "hyperparameters differ: batch_size was 8, now 4"),
        ({"num_epochs": 5, "image_size": 320}, "image_size was [640], now [320]"),
    ],
)
def test_another_training_starts_from_the_best_weights_and_says_why(
    dataset: Dataset, eid: str, values: dict[str, Any], reason: str
) -> None:
    chosen = continue_run(dataset, eid, **values)
    assert get_number(chosen.weights) == BEST
    assert chosen.resume is None
    assert chosen.parent == eid
    assert chosen.description.startswith(
        f"Starts a new training from the best weights of run {eid}, because "
    )
    assert reason in chosen.description


def test_another_dataset_starts_a_new_training(eid: str, tmp_path: Path) -> None:
    write_sample(tmp_path / "drawn", images=3, seed=9, size=(64, 64))
    other = load_dataset(tmp_path / "drawn", tmp_path)
    chosen = continue_run(other, eid, num_epochs=5)
    assert chosen.resume is None
    assert "its dataset is another one" in chosen.description


def test_a_run_overrides_published_weights(dataset: Dataset, eid: str) -> None:
    chosen = continue_run(dataset, eid, num_epochs=5, pretrained_weights="coco")
    assert "continue_from_eid overrides pretrained_weights=coco" in chosen.description


def test_the_weights_of_a_run_can_be_loaded(dataset: Dataset, eid: str) -> None:
    best = choose(dataset, load_from=f"runs:/{eid}")
    last = choose(dataset, load_from=f"runs:/{eid}/checkpoints/0/last.pth")
    assert get_number(best.weights) == BEST
    assert get_number(last.weights) == LAST


@pytest.mark.parametrize("wrong", ["boats", "0" * 32])
def test_a_wrong_eid_is_refused(dataset: Dataset, store: str, wrong: str) -> None:
    with pytest.raises(NotFoundError, match=wrong):
        continue_run(dataset, wrong)


def test_a_run_without_a_checkpoint_is_refused(dataset: Dataset, store: str) -> None:
    with runs.start_run(None, {}) as run:
        pass
    with pytest.raises(DetregError, match="it was not created by detreg, or ended before"):
        continue_run(dataset, run.id)


@pytest.mark.parametrize(
    ("options", "precision"),
    [({"precision": "bf16"}, "bf16"), ({"amp": True}, "fp16"), ({"amp": False}, "fp32")],
)
def test_a_run_says_in_which_precision_it_trained(
    options: dict[str, object], precision: str
) -> None:
    """Up to detreg 0.1 by `amp`."""
    assert initial_weights._read_precision({"options": options}) == precision


def settle_continued(dataset: Dataset, eid: str, **values: Any) -> Settled:
    given = {"base_model": "yolox_nano", "continue_from_eid": eid, "num_epochs": 5, **values}
    options = RunOptions(recipe=given.pop("recipe", FEW_IMAGES))
    return settle(YOLOX, build(YOLOX.params, given), options, dataset)


def test_a_resumed_run_keeps_what_auto_was(dataset: Dataset, eid: str) -> None:
    """It began with random weights, so it froze nothing; whoever resumes it has weights."""
    settled = settle_continued(dataset, eid, batch_size="auto")
    assert settled.params.frozen_stages == 0
    assert settled.params.batch_size == 8
    assert set(settled.reasons.values()) == {"as in the run that is resumed"}
    resumed = choose_initial_weights(YOLOX, settled.params, dataset, settled.options)
    assert resumed.resume is not None


@pytest.mark.parametrize("change", [{"image_size": 320}, {"recipe": PUBLISHED_RECIPE}], ids=str)
def test_a_new_training_from_a_run_has_what_auto_is_for_it(
    change: dict[str, Any], dataset: Dataset, eid: str
) -> None:
    settled = settle_continued(dataset, eid, **change)
    assert settled.params.frozen_stages == (0 if "recipe" in change else 2)
    started = choose_initial_weights(YOLOX, settled.params, dataset, settled.options)
    assert started.resume is None


def test_another_recipe_starts_a_new_training(dataset: Dataset, eid: str) -> None:
    params = build(YOLOX.params, {"base_model": "yolox_nano", "continue_from_eid": eid})
    options = RunOptions(recipe=PUBLISHED_RECIPE)
    chosen = choose_initial_weights(YOLOX, params, dataset, options)
    assert chosen.resume is None
    assert "because recipe was few_images, now published" in chosen.description


def test_a_run_of_an_earlier_version_was_trained_as_published(
    dataset: Dataset, eid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = initial_weights._read_params_of_run

    def read(run_id: str) -> dict[str, Any]:
        content = real(run_id)
        del content["options"]["recipe"]
        return content

    monkeypatch.setattr(initial_weights, "_read_params_of_run", read)
    settled = settle_continued(dataset, eid)
    assert settled.options.recipe == PUBLISHED_RECIPE
    assert "recipe" in settled.reasons
    assert choose_initial_weights(YOLOX, settled.params, dataset, settled.options).resume
