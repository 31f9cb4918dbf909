"""The card inside the ONNX file."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from toy_detector import CARD, write_toy_model

from detreg.errors import DataError, UsageError
from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.operating_point import OperatingPoint, ThresholdFigures
from detreg.inference.preprocessing import Preprocessing

EXACT = replace(
    CARD, preprocessing=Preprocessing((800, 512), False, 1.5, (124, 116, 104), pad_divisor=1)
)
FREE = replace(
    CARD, preprocessing=Preprocessing((800,), True, 1.7, (124, 116, 104), smallest_input=64)
)
POINT = OperatingPoint(
    rule="recall:0.95",
    is_kept=True,
    split="test",
    num_images=40,
    num_objects=90,
    overall=ThresholdFigures(0.21, None, 0.8, 0.96, 0.87),
    per_class={"boat": ThresholdFigures(0.3, (0.25, 0.41), 0.9, 0.9, 0.9)},
    description="score threshold 0.21",
)
USED = replace(CARD, score_threshold=0.21, operating_point=POINT)
ANONYMOUS = replace(CARD, eid=None, dataset_digest=None, classes=("Ümlaut",))

SQUARE_OR_EXACT = {"image_size": [64, 64], "pad_value": [0, 0, 0]}
GRAY_LEVEL = {"image_size": [64], "pad_value": 0}
RATIO = {"keep_aspect_ratio": True, "max_aspect_ratio": 1}

FORMAT_1 = {
    "template": "yolox",
    "classes": ["boat", "buoy"],
    "preprocessing": {
        "image_size": [64],
        "keep_aspect_ratio": True,
        "max_aspect_ratio": 1.0,
        "pad_value": 114,
        "pad_divisor": 32,
    },
    "normalisation": {"mean": [0, 0, 0], "std": [1, 1, 1], "channels": "bgr"},
    "hyperparameters": {"image_size": [64]},
    "eid": None,
    "dataset_digest": None,
    "score_threshold": 0.25,
    "detreg_version": "0.1.0",
    "format": 1,
    "usage": {"before": "..."},
}
"""As detreg wrote it until it padded each channel with a level of its own."""


@pytest.mark.parametrize("card", [CARD, ANONYMOUS, EXACT, FREE, USED])
def test_a_card_reads_back_as_it_was_written(card: Card) -> None:
    assert Card.from_json(card.to_json()) == card


def test_the_file_carries_it(tmp_path: Path) -> None:
    model = onnx.load(write_toy_model(tmp_path / "toy.onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert Card.from_json(properties[METADATA_KEY]) == CARD


def test_it_says_in_words_how_the_file_is_used() -> None:
    letterbox, exact, free = (json.loads(card.to_json())["usage"] for card in (CARD, EXACT, FREE))
    assert set(letterbox) == {"before", "inputs", "outputs", "after"}
    assert letterbox["before"].endswith(
        "Pad right and below with the pixel (114, 114, 114) to 64 x 64 pixels."
    )
    assert exact["before"].startswith("Resize (bilinear) to exactly 800 x 512 pixels.")
    assert "longer side is at most 1360 and the shorter at most 800 pixels" in free["before"]
    assert free["before"].endswith(
        "Pad right and below with the pixel (124, 116, 104) until both sides have at least "
        "64 pixels and divide by 32."
    )


def test_it_describes_each_output_of_the_graph() -> None:
    usage = json.loads(CARD.to_json())["usage"]["outputs"]
    assert usage.startswith(
        "boxes: float32 (batch, detections, 4), x1 y1 x2 y2 in pixels of the input; "
        "scores: float32 (batch, detections), descending; "
        "labels: int64 (batch, detections), positions in classes."
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 3}, "format 3, this detreg reads formats 1 to 2: update detreg"),
        ({"outputs_format": 2}, "outputs of format 2, this detreg reads format 1: update detreg"),
        ({"outputs": ["boxes"]}, "outputs must contain scores, labels"),
        ({"classes": ...}, "lacks classes"),
        ({"template": ..., "preprocessing": ...}, "lacks template, preprocessing"),
        (
            {"preprocessing": {"image_size": [64]}},
            "preprocessing, classes or other values cannot be",
        ),
        ({"preprocessing": SQUARE_OR_EXACT | RATIO}, "exact size"),
        ({"preprocessing": GRAY_LEVEL | RATIO}, "cannot be read"),
    ],
)
def test_an_unreadable_card_says_what_to_do(change: dict[str, object], problem: str) -> None:
    values = json.loads(CARD.to_json()) | change
    values = {key: value for key, value in values.items() if value is not ...}
    with pytest.raises(DataError, match=problem):
        Card.from_json(json.dumps(values))


def test_a_card_declares_all_required_outputs() -> None:
    with pytest.raises(UsageError, match="outputs must contain labels"):
        replace(CARD, outputs=("boxes", "scores"))


def test_a_card_of_format_1_is_still_read() -> None:
    card = Card.from_json(json.dumps(FORMAT_1))
    assert card.preprocessing == Preprocessing((64,), True, 1.0, (114, 114, 114), 32)
    assert card.normalization == FORMAT_1["normalisation"]
    assert card.format == 2
    assert card.classes == ("boat", "buoy")
    assert card.score_threshold == 0.25
    assert Card.from_json(card.to_json()) == card


def test_a_card_without_outputs_has_the_three_of_always() -> None:
    values = json.loads(CARD.to_json())
    del values["outputs"], values["outputs_format"]
    assert Card.from_json(json.dumps(values)).outputs == ("boxes", "scores", "labels")


def test_a_card_without_an_operating_point_has_none() -> None:
    values = json.loads(USED.to_json())
    del values["operating_point"]
    card = Card.from_json(json.dumps(values))
    assert card.operating_point is None
    assert card.score_threshold == 0.21


def test_an_operating_point_has_the_classes_of_its_card() -> None:
    with pytest.raises(UsageError, match=r"operating_point has no such classes: \['boat'\]"):
        replace(USED, classes=("ship",))


@pytest.mark.parametrize("text", ["", "hello", "[1]"])
def test_text_that_is_not_a_card(text: str) -> None:
    with pytest.raises(DataError, match="The card is"):
        Card.from_json(text)


def test_an_unknown_key_is_ignored() -> None:
    assert Card.from_json(json.dumps({**json.loads(CARD.to_json()), "later": 1})) == CARD
