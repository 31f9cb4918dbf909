"""Two models on the same images: intervals, the command, and the page that it writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_bootstrap import match
from test_scores import make_predictions, make_split
from toy_detector import CARD, CARD_WITH_MASKS, write_toy_dataset, write_toy_model

from detreg import cli
from detreg.evaluation.comparison import Difference, compare_mean_ap, compare_models
from detreg.evaluation.comparison_page import describe_verdict
from detreg.evaluation.scores import score
from detreg.tasks.compare import CompareRequest, compare_models_on_data
from detreg.tracking import runs

BRIGHT, DIM = 255, 150

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset, a third of whose boats are dim."""
    folder = tmp_path_factory.mktemp("data") / "boats"
    return write_toy_dataset(folder, [BRIGHT, DIM, BRIGHT] * 8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a model that does not find what is dim, and one that finds all."""
    folder = tmp_path_factory.mktemp("models")
    poor = write_toy_model(folder / "poor.onnx", limit=200)
    good = write_toy_model(folder / "good.onnx", limit=100)
    return str(poor), str(good)


def compare(
    capsys: pytest.CaptureFixture[str], *words: str, exit_code: int = 0
) -> dict[str, Any] | str:
    """Run the command; return its JSON, or what it prints where it fails."""
    assert cli.run(["compare", *words, "--json"]) == exit_code
    output = capsys.readouterr()
    if exit_code:
        return output.err
    content: dict[str, Any] = json.loads(output.out)
    return content


def test_a_better_model_is_told(
    capsys: pytest.CaptureFixture[str], data: Path, models: tuple[str, str], tmp_path: Path
) -> None:
    content = compare(capsys, *models, "--data", str(data))

    assert isinstance(content, dict)
    assert content["images"] == 24
    assert content["mAP"]["a"] == pytest.approx(67 / 101, abs=0.01)
    assert content["mAP"]["b"] == pytest.approx(1.0)
    assert 0 < content["mAP"]["low"] < content["mAP"]["difference"] < content["mAP"]["high"]
    assert content["verdict"].startswith("B is better: mAP 1.000 against 0.66")
    assert content["per_class"]["buoy"]["difference"] is None

    run = runs.get_run(content["run_id"])
    assert run.data.metrics["difference/mAP_low"] == content["mAP"]["low"]
    assert run.data.metrics["difference/AP/boat"] == content["per_class"]["boat"]["difference"]
    assert run.data.params["a"] == models[0]
    page = runs.download_artifact(content["run_id"], "report/index.html", tmp_path).read_text()
    assert "B is better" in page
    assert "B makes fewer errors on 8 images, more on 0, as many on 16" in page
    assert page.count("errors: 1 with A, 0 with B") == 6
    assert (
        json.loads(
            runs.download_artifact(content["run_id"], "comparison.json", tmp_path).read_text()
        )
        == content
    )


def test_the_worse_one_and_the_same_one_are_told(
    capsys: pytest.CaptureFixture[str], data: Path, models: tuple[str, str]
) -> None:
    poor, good = models
    result = compare_models_on_data(CompareRequest(good, poor, str(data)))
    assert result.verdict.startswith("B is worse: ")

    assert cli.run(["compare", good, good, "--data", str(data)]) == 0
    output = capsys.readouterr().out
    assert "24 images do not show which is better: mAP 1.000 against 1.000, +0.000" in output
    assert "report/index.html among the artifacts of run" in output


def test_only_common_classes_are_compared(
    data: Path, models: tuple[str, str], tmp_path: Path
) -> None:
    card = replace(CARD, classes=("boat", "whale"))
    other = write_toy_model(tmp_path / "other.onnx", card, limit=100)
    result = compare_models_on_data(CompareRequest(models[0], str(other), str(data)))
    assert result.content["classes"] == ["boat"]
    assert result.notes == (
        "Not compared, because only A knows it: buoy",
        "Not compared, because only B knows it: whale",
        "Not compared, because only the data has it: buoy",
    )


def test_no_common_class_is_an_error(
    capsys: pytest.CaptureFixture[str], data: Path, models: tuple[str, str], tmp_path: Path
) -> None:
    card = replace(CARD, classes=("whale", "crane"))
    other = write_toy_model(tmp_path / "other.onnx", card)
    error = compare(capsys, models[0], str(other), "--data", str(data), exit_code=65)
    assert "no class in common" in error
    assert "A knows boat, buoy, B whale, crane, the data boat, buoy" in error


def test_the_data_of_the_models_run_is_taken(
    capsys: pytest.CaptureFixture[str], data: Path, models: tuple[str, str], tmp_path: Path
) -> None:
    error = compare(capsys, *models, exit_code=2)
    assert "on which images? The dataset of neither model's run is found" in error
    assert "detreg compare A B --data DATA" in error

    first = compare_models_on_data(CompareRequest(*models, str(data)))
    card = replace(CARD, eid=first.run_id)
    known = write_toy_model(tmp_path / "known.onnx", card)
    content = compare(capsys, str(known), models[1])
    assert isinstance(content, dict)
    assert content["data"] == str(data)


def test_a_split_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], data: Path, models: tuple[str, str]
) -> None:
    error = compare(capsys, *models, "--data", str(data), "--split", "test", exit_code=2)
    assert "has no split test: there are train, val" in error


def test_masks_are_compared_where_both_models_and_the_data_have_some(
    capsys: pytest.CaptureFixture[str], data: Path, models: tuple[str, str], tmp_path: Path
) -> None:
    masked = write_toy_dataset(tmp_path / "masked", [BRIGHT, DIM] * 4, has_masks=True)
    paths = [tmp_path / "poor.onnx", tmp_path / "good.onnx"]
    for path, limit in zip(paths, (200, 100), strict=True):
        write_toy_model(path, CARD_WITH_MASKS, limit=limit)
    a, b = map(str, paths)

    content = compare(capsys, a, b, "--data", str(masked))
    assert isinstance(content, dict)
    of_masks = content["segm_mAP"]
    assert 0 < of_masks["a"] < of_masks["b"] < content["mAP"]["b"]
    run = runs.get_run(content["run_id"])
    assert run.data.metrics["difference/segm_mAP"] == of_masks["difference"]
    page = runs.download_artifact(content["run_id"], "report/index.html", tmp_path).read_text()
    assert "<td>mAP of masks</td>" in page

    for others in ((a, b, "--data", str(data)), (models[0], b, "--data", str(masked))):
        content = compare(capsys, *others)
        assert isinstance(content, dict) and "segm_mAP" not in content


def test_differences_are_those_of_the_scores() -> None:
    content = make_split(1, images=24)
    a, b = make_predictions(content, 2), make_predictions(content, 3)
    comparison = compare_models(match(content, a), match(content, b))

    scores_a, scores_b = score(content, a), score(content, b)
    assert (comparison.mAP.a, comparison.mAP.b) == pytest.approx((scores_a.mAP, scores_b.mAP))
    assert comparison.per_class["boat"].b == pytest.approx(scores_b.per_class["boat"])
    assert comparison.per_class["dock"] == Difference(None, None, None)
    assert comparison.per_size["medium"].a == pytest.approx(scores_a.mAP_m)
    assert compare_mean_ap(match(content, a), match(content, b)) == comparison.mAP

    mirrored = compare_mean_ap(match(content, b), match(content, a)).interval
    interval = comparison.mAP.interval
    assert mirrored is not None
    assert interval is not None
    assert (-mirrored.high, -mirrored.low) == pytest.approx((interval.low, interval.high))


def test_images_without_objects_compare_nothing() -> None:
    content = make_split(1) | {"annotations": []}
    found = match(content, make_predictions(make_split(1), 2))
    comparison = compare_models(found, found)
    assert describe_verdict(comparison) == (
        "These images have no object of a common class, so nothing can be compared"
    )
