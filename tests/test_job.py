"""What a training is made of, and what of it is printed and logged before the first step."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from detreg.data.dataset import load_dataset
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.tracking import runs
from detreg.training.initial_weights import PARAMS_FILE
from detreg.training.job import Job, log_job, prepare_job


def prepare(name: str, data: Path, **values: Any) -> Job:
    template = find_template(name)
    params, options = parse_settings(template, SMALL[name] | values)
    return prepare_job(template, params, options, load_dataset(str(data)))


def test_an_auto_rate_is_printed_and_logged_as_a_number(
    store: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"base_model": "ssd300_vgg16", "image_size": 300, "num_workers": "auto"}
    job = prepare("ssd", tiny, **values)
    printed = capsys.readouterr().out
    assert (
        "per_item_lrate=3.125e-05, the published rate of ssd300_vgg16 (per_item_lrate=auto)"
        in printed
    )

    with runs.start_run(None, job.tags) as run:
        run.log_params({"per_item_lrate": "auto"})  # as `mlflow run` does before detreg begins
        log_job(run, job)
    logged = runs.get_run(run.id).data.params
    assert logged["per_item_lrate"] == "auto"
    assert logged["per_item_lrate.resolved"] == "3.125e-05"
    assert logged["num_workers"] == "auto"
    assert logged["num_workers.resolved"] == str(job.config.train_dataloader.num_workers)
    assert job.texts["num_workers"] == logged["num_workers.resolved"]

    path = download_artifacts(run_id=run.id, artifact_path=PARAMS_FILE, dst_path=str(tmp_path))
    content = json.loads(Path(path).read_text())
    assert content["hyperparameters"]["per_item_lrate"] == 0.002 / 64
    assert content["template"] == "ssd"
    assert content["dataset_digest"] == job.dataset.digest
    assert "config.py" in {file.path for file in MlflowClient().list_artifacts(run.id)}


def test_small_images_are_a_warning_on_the_terminal_and_in_a_tag(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = prepare("yolox", tiny, image_size=96, random_resize_upper=128)
    assert runs.LEFT_OUT not in job.tags
    printed = capsys.readouterr().err
    assert printed.startswith(
        "Warning: 20 of 20 training images (100%) are smaller than random_resize_lower=96"
    )
    assert job.tags[runs.WARNING] in printed


def test_a_job_without_anything_special_has_no_warning_and_no_parent(tiny: Path) -> None:
    job = prepare("yolox", tiny)
    assert job.tags.keys() == {runs.TEMPLATE, runs.DIGEST, runs.START}
    assert job.tags[runs.START] == "Starts from random weights"


def test_images_that_are_left_out_are_counted_in_a_tag(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    for image in sorted(broken.rglob("*.jpg"))[:2]:
        image.write_bytes(b"no image")
    dataset = load_dataset(broken, on_bad_image="skip")
    job = replace(prepare("yolox", tiny), dataset=dataset)
    assert job.tags[runs.LEFT_OUT] == "2"
