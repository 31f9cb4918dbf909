"""A new version against the champion, on the images that neither was trained on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from toy_detector import CARD, CARD_WITH_MASKS, write_toy_dataset, write_toy_model

from detreg import promotion
from detreg.data.dataset import Dataset, load_dataset
from detreg.data.image_hashes import IMAGE_HASHES
from detreg.errors import UnreachableError
from detreg.inference.detector import Detector
from detreg.promotion import NewVersion, make_promotion, measure_evidence
from detreg.promotion_rule import PromotionRule, parse_promotion_rule
from detreg.serving.packaging import log_model
from detreg.tracking import runs
from detreg.tracking.decision import Candidate, Evidence
from detreg.tracking.records import Registration
from detreg.tracking.registry import register

BRIGHT, DIM = 255, 150
POOR, GOOD = 200, 100
"""The limits of a model that does not find what is dim, and of one that finds all."""
DIM_BOATS = [BRIGHT, DIM, BRIGHT] * 8
NAME = "toys"

pytestmark = pytest.mark.usefixtures("store")


def start_training(data: Dataset, *, parent: str | None = None, has_list: bool = True) -> str:
    """Return a run that has logged what a training on a dataset logs of its images."""
    tags = {runs.DIGEST: data.digest} | ({runs.PARENT: parent} if parent else {})
    with runs.start_run(None, tags) as run:
        if has_list:
            run.log_file(data.folder / IMAGE_HASHES)
    return run.id


@dataclass(frozen=True)
class Champions:
    """Two registered models, a poor one and one of other classes, and what the poor one learned."""

    data: Dataset
    poor: Candidate
    other: Candidate


@pytest.fixture(scope="module")
def champions(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Champions]:
    folder = tmp_path_factory.mktemp("champions")
    data = load_dataset(write_toy_dataset(folder / "boats", DIM_BOATS), folder / "cache")
    client = MlflowClient()
    client.create_registered_model(NAME)
    candidates = []
    for classes in (CARD.classes, ("boat", "whale")):
        run_id = start_training(data)
        card = replace(CARD, classes=classes)
        with runs.start_run(None, {}, run_id=run_id) as run:
            uri = log_model(write_toy_model(run.folder / "toy.onnx", card, limit=POOR)).model_uri
        version = client.create_model_version(NAME, uri, run_id)
        candidates.append(Candidate(int(version.version), 0.5, data.digest, run_id, True))
    yield Champions(data, *candidates)


def make_version(
    folder: Path, data: Dataset, limit: int = GOOD, parent: str | None = None
) -> NewVersion:
    """Return a version that is trained on a dataset, and not registered yet."""
    return NewVersion(
        name=NAME,
        run_id=start_training(data, parent=parent),
        onnx_file=write_toy_model(folder / "new.onnx", limit=limit),
        dataset_digest=data.digest,
        annotations=data.splits["val"].annotations,
    )


def make_data(folder: Path, brightness: list[int], first: int, train: int = 2000) -> Dataset:
    data = write_toy_dataset(folder / "data", brightness, first, train)
    return load_dataset(data, folder / "cache")


@pytest.mark.parametrize(("limit", "is_better"), [(GOOD, True), (POOR, False)])
def test_both_are_scored_on_the_same_images(
    champions: Champions, tmp_path: Path, limit: int, is_better: bool
) -> None:
    version = make_version(tmp_path, champions.data, limit)
    evidence = measure_evidence(version, champions.poor)
    assert (evidence.images, evidence.problem, evidence.note) == (24, "", "")
    assert evidence.champion_mAP == pytest.approx(2 / 3, abs=0.01)
    assert (evidence.low > 0) == is_better
    assert (evidence.mAP == 1) == is_better
    assert measure_evidence(version, champions.poor) == evidence


@pytest.mark.parametrize(("metric", "expected"), [("segm_mAP", 0.3), ("mAP", 1.0)])
def test_versions_with_masks_are_compared_by_them_unless_told_otherwise(
    champions: Champions, tmp_path: Path, metric: str, expected: float
) -> None:
    """The disc with a hole that is found in each box has an IoU of 0.61 with the whole of it."""
    data = champions.data
    annotations = tmp_path / "val.json"
    content = json.loads(data.splits["val"].annotations.read_text())
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        right, bottom = x + width, y + height
        annotation["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
    annotations.write_text(json.dumps(content))

    name = f"masks {metric}"
    version = replace(make_version(tmp_path, data), name=name, annotations=annotations)
    write_toy_model(version.onnx_file, CARD_WITH_MASKS, limit=GOOD)
    client = MlflowClient()
    client.log_param(version.run_id, "metric", metric)
    client.create_registered_model(name)
    uri = log_model(write_toy_model(tmp_path / "champion.onnx", CARD_WITH_MASKS)).model_uri
    registered = client.create_model_version(name, uri, champions.poor.run_id)
    champion = replace(champions.poor, version=int(registered.version))

    evidence = measure_evidence(version, champion)
    assert (evidence.problem, evidence.metric) == ("", metric)
    assert evidence.mAP == pytest.approx(expected, abs=0.01)
    assert evidence.champion_mAP == pytest.approx(expected * 2 / 3, abs=0.01)
    assert Evidence.from_json(evidence.to_json()) == evidence
    assert ("metric" in json.loads(evidence.to_json())) == (metric == "segm_mAP")


def test_images_that_the_champion_was_trained_on_are_left_out(
    champions: Champions, tmp_path: Path
) -> None:
    # The images of the champion's train split are bright, and on the places 1000 and 1001.
    other = make_data(tmp_path, DIM_BOATS, first=998)
    evidence = measure_evidence(make_version(tmp_path, other), champions.poor)
    assert (evidence.images, evidence.problem) == (22, "")
    assert evidence.note == "2 that one of the two was trained on are left out"
    assert evidence.low > 0


def test_images_of_earlier_trainings_are_left_out_and_too_few_are_told(
    champions: Champions, tmp_path: Path
) -> None:
    data = make_data(tmp_path, [BRIGHT] * 20, first=985)
    unrelated = load_dataset(write_toy_dataset(tmp_path / "third", [DIM], 1500, 1600))
    champion = replace(champions.poor, run_id=start_training(unrelated))
    version = make_version(tmp_path, data)
    assert measure_evidence(version, champion).images == 20

    continued = make_version(tmp_path, data, parent=champions.poor.run_id)
    assert measure_evidence(continued, champion).problem == (
        "the val split has only 18 of 20 images, because one of the two was trained on 2, and with "
        "fewer than 20 luck decides"
    )


def test_a_champion_without_a_list_of_its_images_is_told(
    champions: Champions, tmp_path: Path
) -> None:
    without_list = replace(champions.poor, run_id=start_training(champions.data, has_list=False))
    version = make_version(tmp_path, make_data(tmp_path, DIM_BOATS, first=500))
    problem = measure_evidence(version, without_list).problem
    assert "has no list of the images that it was trained on" in problem

    # On the same dataset no list is needed.
    same = make_version(tmp_path, champions.data)
    assert measure_evidence(same, without_list).images == 24


def test_champions_that_cannot_be_compared_are_told(champions: Champions, tmp_path: Path) -> None:
    version = make_version(tmp_path, champions.data)

    def find_problem(champion: Candidate, new: NewVersion = version) -> str:
        return measure_evidence(new, champion).problem

    assert find_problem(champions.other) == (
        "it has other classes (it alone knows whale, the new version alone buoy)"
    )
    assert "its file cannot be loaded" in find_problem(replace(champions.poor, version=99))
    foreign = replace(champions.poor, run_id="", is_scored=False)
    assert find_problem(foreign).startswith("detreg has not registered it")
    gone = replace(champions.poor, run_id="f" * 32)
    assert "is gone, so nothing tells which images" in find_problem(gone)
    moved = replace(version, annotations=tmp_path / "val.json")
    assert find_problem(champions.poor, moved) == (
        "the val split of the new version is not on this machine"
    )


def test_an_error_that_nobody_expects_is_told(
    champions: Champions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("an operator that is not there")

    monkeypatch.setattr(promotion, "predict_split", fail)
    version = make_version(tmp_path, champions.data)
    assert "an operator that is not there" in measure_evidence(version, champions.poor).problem


def test_a_server_that_is_away_is_no_evidence(
    champions: Champions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UnreachableError("away")

    version = make_version(tmp_path, champions.data)
    monkeypatch.setattr(Detector, "load", fail)
    with pytest.raises(UnreachableError):
        measure_evidence(version, champions.poor)


def test_a_large_split_is_capped(
    champions: Champions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "MAX_IMAGES", 21)
    evidence = measure_evidence(make_version(tmp_path, champions.data), champions.poor)
    assert (evidence.images, evidence.note) == (21, "21 of 24")


def test_registering_compares_with_the_champion(champions: Champions) -> None:
    reasons = []
    for limit in (POOR, GOOD):
        run_id = start_training(champions.data)
        with runs.start_run(None, {}, run_id=run_id) as run:
            file = write_toy_model(run.folder / "toy.onnx", limit=limit)
            registration = Registration(
                path=file.name,
                name="registered",
                score=0.5,
                dataset_digest=champions.data.digest,
                tags={},
                annotations=str(champions.data.splits["val"].annotations),
            )
            entry = register(
                "registered",
                log_model(file).model_uri,
                run.id,
                score=0.5,
                dataset_digest=champions.data.digest,
                tags={},
                promotion=make_promotion(run.id, run.folder, registration),
            )
        assert entry.alias == "champion"
        reasons.append(entry.reason)
    assert reasons[0] == "there was no champion"
    assert reasons[1].startswith("it is better than version 1 on the same 24 images: mAP 1.0000")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("better", PromotionRule("better")),
        ("never", PromotionRule("never")),
        ("not_worse:0.01", PromotionRule("not_worse", 0.01)),
    ],
)
def test_a_rule_is_read(text: str, rule: PromotionRule) -> None:
    assert parse_promotion_rule(text) == rule


@pytest.mark.parametrize("text", ["", "best", "not_worse", "not_worse:0", "not_worse:1", "never:1"])
def test_another_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"better, not_worse:0\.01 .* or never, got"):
        parse_promotion_rule(text)
