"""The card inside the ONNX file."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from test_detector import CARD, toy_model

from detreg.errors import DataError
from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.preprocessing import Preprocessing

CARDS = [
    CARD,
    replace(CARD, eid=None, dataset_digest=None, classes=("Ümlaut",)),
    replace(CARD, preprocessing=Preprocessing((800, 512), False, 1.5, 0, pad_divisor=1)),
    replace(CARD, preprocessing=Preprocessing((800,), True, 1.7, 0)),
]


@pytest.mark.parametrize("card", CARDS)
def test_a_card_reads_back_as_it_was_written(card: Card) -> None:
    assert Card.from_json(card.to_json()) == card


def test_the_file_carries_it(tmp_path: Path) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(toy_model(tmp_path / "toy.onnx")).metadata_props}
    assert Card.from_json(properties[METADATA_KEY]) == CARD


def test_it_says_in_words_how_the_file_is_used() -> None:
    letterbox, _, exact, free = (json.loads(card.to_json())["usage"] for card in CARDS)
    assert letterbox["before"].endswith("Pad right and below with grey level 114 to 64 x 64 pixels.")
    assert exact["before"].startswith("Resize (bilinear) to exactly 800 x 512 pixels.")
    assert "longer side is at most 1360 and the shorter at most 800 pixels" in free["before"]
    assert free["before"].endswith("Pad right and below with grey level 0 until both sides divide by 32.")
    assert set(letterbox) == {"before", "inputs", "outputs", "after"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "format 2, this detreg reads format 1: update detreg"),
        ({"classes": ...}, "lacks classes"),
        ({"template": ..., "preprocessing": ...}, "lacks template, preprocessing"),
        ({"preprocessing": {"image_size": [64]}}, "preprocessing or classes cannot be read"),
        ({"preprocessing": {"image_size": [64, 64], "keep_aspect_ratio": True, "max_aspect_ratio": 1, "pad_value": 0}}, "exact size"),
    ],
)
def test_an_unreadable_card_says_what_to_do(change: dict[str, object], problem: str) -> None:
    values = {key: value for key, value in (json.loads(CARD.to_json()) | change).items() if value is not ...}
    with pytest.raises(DataError, match=problem):
        Card.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "hello", "[1]"])
def test_text_that_is_no_card(text: str) -> None:
    with pytest.raises(DataError, match="The card is"):
        Card.from_json(text)


def test_a_later_key_is_left_alone() -> None:
    assert Card.from_json(json.dumps({**json.loads(CARD.to_json()), "later": 1})) == CARD
