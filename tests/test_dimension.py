"""What is searched of one hyperparameter: valid once made, and on the hyperparameter's grid."""

import optuna
import pytest

from detreg.params import get_params
from detreg.sweeps.dimension import Dimension
from detreg.templates import TEMPLATES

YOLOX = get_params(TEMPLATES["yolox"].params)


@pytest.mark.parametrize(
    ("name", "low", "high", "step", "log", "message"),
    [
        ("image_size", 640, 320, 32, False, "the minimum 640 must be below the maximum 320"),
        ("image_size", 320, 4096, 32, False, "from 64 to 2048"),
        ("image_size", 300, 640, 32, False, "the nearest are 288 and 320"),
        ("image_size", 320, 640, 0, False, "the step must be above 0 and finite, got 0"),
        ("image_size", 320, 640, 48, False, "the step must be a multiple of 32, got 48"),
        ("image_size", 320, 640, 96, False, "the maximum would be 608 or 704"),
        ("image_size", 320, 640, None, True, "a hyperparameter without steps"),
        ("per_item_lrate", 0, 1e-3, None, True, "a minimum above 0"),
        ("per_item_lrate", float("nan"), 1e-3, None, False, "from 0 to 1"),
    ],
)
def test_an_invalid_range_cannot_be_made(
    name: str, low: float, high: float, step: float | None, log: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Dimension(YOLOX[name], low, high, step, log)


def test_invalid_choices_cannot_be_made() -> None:
    base_model = YOLOX["base_model"]
    with pytest.raises(ValueError, match="yolox_huge"):
        Dimension(base_model, choices=("yolox_nano", "yolox_huge"))
    with pytest.raises(ValueError, match="two choices or more, got yolox_nano"):
        Dimension(base_model, choices=("yolox_nano",))


def test_nearest_is_on_the_grid() -> None:
    image_size = Dimension(YOLOX["image_size"], 320, 640, 64)
    assert image_size.find_nearest((500,)) == 512
    assert image_size.find_nearest_typed((500,)) == (512,)
    assert image_size.find_nearest((2000,)) == 640

    rate = Dimension(YOLOX["per_item_lrate"], 1e-5, 1e-3, log=True)
    assert rate.find_nearest(0.5) == 1e-3
    with pytest.raises(TypeError, match="per_item_lrate must be a number or a size, got None"):
        rate.find_nearest(None)


def test_the_first_choice_stands_for_a_value_outside_the_choices() -> None:
    base_model = Dimension(YOLOX["base_model"], choices=("yolox_nano", "yolox_tiny"))
    assert base_model.find_nearest("yolox_tiny") == "yolox_tiny"
    assert base_model.find_nearest("yolox_s") == "yolox_nano"


def test_ends_are_typed() -> None:
    assert Dimension(YOLOX["image_size"], 320, 640, 32).ends == ((320,), (640,))
    keep_aspect_ratio = Dimension(YOLOX["keep_aspect_ratio"], choices=("true", "false"))
    assert keep_aspect_ratio.ends == (True, False)


def test_a_suggestion_has_the_type_of_its_hyperparameter() -> None:
    trial = optuna.trial.FixedTrial({"size": 416, "rate": 1e-4, "keep": "false", "stages": 1})
    size = Dimension(YOLOX["image_size"], 320, 640, 32).suggest(trial, "size")
    rate = Dimension(YOLOX["per_item_lrate"], 1e-5, 1e-3, log=True).suggest(trial, "rate")
    keep = Dimension(YOLOX["keep_aspect_ratio"], choices=("true", "false")).suggest(trial, "keep")
    stages = Dimension(YOLOX["frozen_stages"], 0, 2, 1).suggest(trial, "stages")
    assert (size, rate, keep, stages) == ((416,), 1e-4, False, 1)
    assert isinstance(stages, int)
