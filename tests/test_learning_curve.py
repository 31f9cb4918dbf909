"""What more images would bring: the curve, parts of a dataset, and the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from mlflow import MlflowClient
from toy_detections import CLASSES, make_detections

from detreg import cli
from detreg.data.dataset import load_dataset
from detreg.data.parts import take_part
from detreg.evaluation.bootstrap import MatchedDetections
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.learning_curve import LearningCurve, Trained, predict_power_law, score_means


def test_the_interval_of_a_power_law_holds_its_value() -> None:
    """At twice the images, for 200 laws with noise: 95 % of the intervals or more."""
    rng = np.random.default_rng(5)
    sizes = np.array([25.0, 51.0, 102.0, 205.0])
    noise, num_laws, num_held, widths = 0.01, 200, 0, []
    for _ in range(num_laws):
        exponent, limit = rng.uniform(0.15, 1.0), rng.uniform(0.4, 0.95)
        gain = limit * rng.uniform(0.4, 0.95) * sizes[0] ** exponent
        measured = limit - gain * sizes**-exponent + rng.normal(0, noise, 4)
        points = measured[:, None] + rng.normal(0, noise, (4, 400))
        low, high = np.quantile(predict_power_law(sizes, points, 410, noise), [0.025, 0.975])
        num_held += low <= limit - gain * 410**-exponent <= high
        widths.append(high - low)
    assert num_held >= 0.95 * num_laws
    assert np.mean(widths) < 0.1


def test_what_does_not_grow_stays_as_it_is() -> None:
    sizes = np.array([10.0, 20.0, 40.0, 80.0])
    flat = np.full((4, 50), 0.5)
    np.testing.assert_allclose(predict_power_law(sizes, flat, 160, 0.01), 0.5)
    falling = np.array([0.8, 0.7, 0.6, 0.5])[:, None].repeat(50, axis=1)
    np.testing.assert_allclose(predict_power_law(sizes, falling, 160, 0.01), 0.65)
    rising = np.array([0.2, 0.6, 0.9, 1.0])[:, None].repeat(50, axis=1)
    assert predict_power_law(sizes, rising, 160, 0.01).max() <= 1


def make_trained(images: int, seed: int, num_found: int) -> Trained:
    """Return a training that finds the boats of so many of ten images."""
    truth = GroundTruth.load(
        {
            "images": [
                {"id": n, "file_name": f"/none/{n}.jpg", "width": 300, "height": 300}
                for n in range(1, 11)
            ],
            "annotations": [
                {
                    "id": n,
                    "image_id": n,
                    "category_id": 1,
                    "bbox": [0, 10, 40, 20],
                    "area": 800,
                    "iscrowd": 0,
                }
                for n in range(1, 11)
            ],
            "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
        }
    )
    predictions = {}
    for image in truth.images:
        rows = [(0.0, 0.9 - image / 100, 0)] if image <= num_found else []
        predictions[image] = make_detections(*rows)
    return Trained(images, seed, MatchedDetections.match(truth, predictions))


def test_a_curve_takes_the_mean_over_seeds_and_needs_three_sizes() -> None:
    found = {(8, 0): 2, (8, 1): 4, (16, 0): 5, (32, 0): 7, (64, 0): 8}
    trainings = [make_trained(*part, number) for part, number in found.items()]
    means = score_means(trainings)
    assert list(means) == [8, 16, 32, 64]
    assert means[8] == pytest.approx(0.3, abs=0.02)

    prediction = LearningCurve.measure(trainings).predict(128)
    assert prediction.images == 128
    assert 0.3 < prediction.interval.low < prediction.mAP < prediction.interval.high <= 1
    assert LearningCurve.measure(trainings).predict(128) == prediction  # nothing is left to chance

    with pytest.raises(ValueError, match=r"needs 3 numbers of images, got \[8, 16\]"):
        LearningCurve.measure(trainings[:3])


def test_parts_are_contained_in_larger_ones_and_are_other_datasets(tiny: Path) -> None:
    dataset = load_dataset(tiny)
    total = dataset.splits["train"].images
    large, small = take_part(dataset, total - 1, seed=3), take_part(dataset, 2, seed=3)

    files: list[set[str]] = []
    for part in (small, large, dataset):
        content = json.loads(part.splits["train"].annotations.read_text())
        files.append({image["file_name"] for image in content["images"]})
        assert part.splits["train"].images == len(content["images"])
        assert part.splits["train"].boxes == len(content["annotations"])
    assert files[0] < files[1] < files[2]
    assert len({small.digest, large.digest, dataset.digest}) == 3
    assert take_part(dataset, 2, seed=3) == small
    assert take_part(dataset, 2, seed=4).digest != small.digest
    assert take_part(dataset, total, seed=3) is dataset
    assert small.splits["val"] == dataset.splits["val"]


def make_words(data: Path, **values: Any) -> list[str]:
    words = ["learning-curve", "yolox", "--json", "--seeds", "1"]
    for name, value in {**TINY, "data": data, **values}.items():
        words += [f"--{name}", str(value)]
    return words


@pytest.mark.slow
def test_a_curve_that_was_interrupted_goes_on_where_it_was(
    store: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from detreg.tracking import runs
    from detreg.training import engine

    fit = engine.fit
    started: list[str] = []

    def interrupt_second(job: Any, folder: Path, run: Any) -> Any:
        started.append(run.id)

        def interrupt(epoch: int, mAP: float) -> bool:
            if len(started) == 2:
                raise KeyboardInterrupt
            return False

        return fit(job, folder, run, interrupt)

    monkeypatch.setattr(engine, "fit", interrupt_second)
    assert cli.run(make_words(tiny)) == 130
    captured = capsys.readouterr()
    assert "run the same command again: trainings that have ended are not repeated" in captured.err
    assert runs.get_run(started[1]).info.status == "KILLED"

    assert cli.run(make_words(tiny)) == 0
    captured = capsys.readouterr()
    output = captured.err
    assert f"as trained in run {started[0]}" in output
    assert f"Resumes run {started[1]} after epoch 1 of 2" in output
    assert len(started) == 5  # the second part twice, and the third and fourth

    result = json.loads(captured.out)
    total = load_dataset(tiny).splits["train"].images
    assert [point["images"] for point in result["points"]] == [total // n for n in (8, 4, 2, 1)]
    assert result["twice"]["images"] == 2 * total
    assert result["check"]["images"] == total
    client = MlflowClient()
    logged = client.get_metric_history(result["run_id"], "learning_curve/mAP")
    assert {entry.step: entry.value for entry in logged} == {
        point["images"]: point["mAP"] for point in result["points"]
    }
    pages = [file.path for file in client.list_artifacts(result["run_id"], "report")]
    assert pages == ["report/index.html", "report/learning_curve.png"]
    for eid in started[2:]:
        run = runs.get_run(eid)
        assert run.data.tags["mlflow.parentRunId"] == result["run_id"]
        # An epoch of each part has as many samples as one of all images.
        assert run.data.params["min_samples_per_epoch"] == str(total)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"continue_from_eid": "0" * 32}, "that run may have seen all the images"),
        ({"image_size": 63}, "image_size"),
    ],
)
def test_what_a_curve_refuses(
    values: dict[str, Any], problem: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(make_words(tiny, **values)) == 2
    assert problem in capsys.readouterr().err


def test_too_few_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sample", str(tmp_path / "few"), "--images", "10"]) == 0
    assert cli.run(make_words(tmp_path / "few")) == 65
    assert "needs at least 16" in capsys.readouterr().err
