"""What MLflow's pages say of a run, a registered model and a version."""

import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from toy_detector import write_toy_model

from detreg.data.dataset import Dataset, load_dataset
from detreg.evaluation.bootstrap import Interval
from detreg.evaluation.scores import PRECISION_SHAPE, Scores
from detreg.inference.operating_point import OperatingPoint, ThresholdFigures
from detreg.model_notes import TrainedModelFacts, describe_model, describe_run, describe_version
from detreg.serving.packaging import log_model
from detreg.templates import TEMPLATES
from detreg.templates.faster_rcnn import FasterRcnnParams
from detreg.tracking import runs
from detreg.tracking.records import Description, Record, Registration
from detreg.tracking.registered_model import add_descriptions

NOTE = "mlflow.note.content"
HOSTILE = "<script>alert(1)</script> [x](javascript:y) | `z`\n# boat"


def make_scores(per_class: dict[str, float | None]) -> Scores:
    thresholds, recalls, areas = PRECISION_SHAPE
    precision = np.zeros((thresholds, recalls, len(per_class), areas))
    return Scores(0.6051, 0.9287, 0.7, None, 0.61, 0.7, per_class, precision)


def make_facts(dataset: Dataset) -> TrainedModelFacts:
    template = TEMPLATES["yolox"]
    point = OperatingPoint(
        rule="f1",
        is_kept=True,
        split="val",
        num_images=6,
        num_objects=20,
        overall=ThresholdFigures(0.412, precision=0.91, recall=0.88, f1=0.895),
        per_class=MappingProxyType({}),
        description="the best F1",
    )
    return TrainedModelFacts(
        run_id="0" * 32,
        name="my boats",
        template=template,
        params=template.params(),
        dataset=dataset,
        scores={"val": make_scores({"balloon": 0.5, "boat": 0.75, "house": None})},
        interval=Interval(0.57, 0.64),
        point=point,
        best_epoch=13,
    )


@pytest.fixture(scope="module")
def facts(tiny: Path) -> TrainedModelFacts:
    return make_facts(load_dataset(tiny))


def test_a_run_is_described_by_what_came_out(facts: TrainedModelFacts) -> None:
    text = describe_run(facts)
    assert text.startswith("**mAP 0.605** (95 % interval 0.570 to 0.640), mAP_50 0.929 on the ")
    assert "Used from a score of **0.412** on: precision 0.910, recall 0.880" in text
    assert "Best class: boat (AP 0.750); worst class: balloon (AP 0.500)" in text
    assert f"digest `{facts.dataset.digest}`" in text
    assert f"run_uuid={'0' * 32})" in text


def test_a_version_has_a_model_card(facts: TrainedModelFacts) -> None:
    card = describe_version(facts)
    assert card.startswith("mAP 0.605 on tiny: yolox with base model yolox_s at 640 px")
    assert "It finds balloon, boat, house." in card
    images = facts.dataset.splits["val"].images
    assert f"- val, {images} images: mAP 0.605, mAP_50 0.929, mAP_75 0.700\n" in card
    assert "between 0.570 and 0.640 (95 %)" in card
    assert "Val has no small objects" in card
    # A shell takes the name as it stands there.
    assert "mlflow models serve -m 'models:/my boats/%version%'" in card
    assert "models:/my boats@champion" in describe_model(facts)


def test_a_model_with_masks_says_so(facts: TrainedModelFacts) -> None:
    template = TEMPLATES["faster_rcnn"]
    scores = replace(facts.scores["val"], mAP=0.5, prefix="segm_")
    with_masks = replace(
        facts,
        template=template,
        params=FasterRcnnParams(masks=True),
        mask_scores={"val": scores},
    )
    assert "; masks: segm_mAP 0.500 on val" in describe_run(with_masks)
    card = describe_version(with_masks)
    assert "It finds balloon, boat, house, with their masks." in card
    assert "- val, masks: segm_mAP 0.500, segm_mAP_50 0.929, segm_mAP_75 0.700\n" in card
    for text in (describe_run(facts), describe_version(facts)):
        assert "mask" not in text and "segm" not in text


def test_what_is_not_known_is_left_out(facts: TrainedModelFacts) -> None:
    nothing = replace(facts, interval=None, scores={"val": make_scores({"boat": None})})
    for text in (describe_run(nothing), describe_version(nothing)):
        assert "interval" not in text
        assert "class:" not in text
        assert "None" not in text


def test_names_of_strangers_have_no_meaning(facts: TrainedModelFacts) -> None:
    classes = (HOSTILE, *(f"class {number}" for number in range(100)))
    dataset = replace(facts.dataset, name=HOSTILE, classes=classes)
    scores = {"val": make_scores({HOSTILE: 0.5, "b": 0.4})}
    hostile = replace(facts, dataset=dataset, scores=scores)
    for text in (describe_run(hostile), describe_version(hostile), describe_model(hostile)):
        # What stands between backticks is code. Outside of it no mark is without its backslash.
        outside = re.sub(r"(`+)[^`].*?(?<!`)\1(?!`)", "", text)
        assert not re.search(r"(?<!\\)<|(?<!\\)\[x", outside)
        assert "\n# boat" not in text
    assert "and 81 more" in describe_version(hostile)


def test_a_description_that_somebody_has_written_stays(store: str) -> None:
    for written in ("", "mine"):
        with runs.start_run(None, {NOTE: written} if written else {}) as run:
            run.describe("mAP https://me:secret@host")
        assert runs.get_run(run.id).data.tags[NOTE] == (written or "mAP https://me:***@host")
    line = Description("text").to_json()
    assert Record.from_json(line) == Description("text")


def test_models_and_versions_are_described_once(store: str, tmp_path: Path) -> None:
    client = MlflowClient()
    client.create_registered_model("boats")
    registration = Registration("x.onnx", "boats", 0.5, "digest", {})
    described = replace(registration, model_description="a", version_description="b %version%")
    for number in ("1", "2"):
        client.create_model_version("boats", "file:///nowhere")
        # An earlier detreg has left none in its journal.
        add_descriptions("boats", number, registration)
        assert not client.get_model_version("boats", number).description
        add_descriptions("boats", number, described)
        assert client.get_model_version("boats", number).description == f"b {number}"
        add_descriptions("boats", number, replace(described, version_description="other"))
        assert client.get_model_version("boats", number).description == f"b {number}"
        assert client.get_registered_model("boats").description == "a"
        described = replace(described, model_description="another")


def test_a_model_has_an_example_that_it_can_be_asked_with(store: str, tmp_path: Path) -> None:
    with mlflow.start_run():
        info = log_model(write_toy_model(tmp_path / "toy.onnx"))
    model = mlflow.pyfunc.load_model(info.model_uri)
    (answer,) = model.predict(model.input_example)
    assert len(answer["boxes"]) == len(answer["scores"]) > 0
