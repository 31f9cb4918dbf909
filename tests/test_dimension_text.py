"""A dimension as text: what it means, and why it is refused."""

import pytest

from detreg.params import get_params
from detreg.sweeps.dimension_text import parse_dimension
from detreg.templates import TEMPLATES

YOLOX = get_params(TEMPLATES["yolox"].params)


@pytest.mark.parametrize(
    ("name", "text", "meaning"),
    [
        ("per_item_lrate", None, "0.0001:0.004:log"),
        ("per_item_lrate", "1e-4:1e-3", "0.0001:0.001:log"),
        ("per_item_lrate", "1e-4:5e-4:1e-4", "0.0001:0.0005:0.0001"),
        ("per_item_lrate", "1e-5:1e-3:log", "1e-05:0.001:log"),
        ("batch_size", None, "1:32:1"),
        ("frozen_stages", "0:2", "0:2:1"),
        ("keep_aspect_ratio", None, "true|false"),
        ("image_size", "320:640:64", "320:640:64"),
        ("image_size", "640|800,512|640", "640|800,512"),
        ("base_model", "yolox_nano|yolox_tiny", "yolox_nano|yolox_tiny"),
    ],
)
def test_a_text_is_parsed(name: str, text: str | None, meaning: str) -> None:
    """What the text leaves out is the hyperparameter's own range, step or scale."""
    assert str(parse_dimension(YOLOX[name], text)) == meaning


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("image_size", "320:640:48", "the step must be a multiple of 32"),
        ("image_size", "320:640:96", "does not divide the range; the maximum would be 608 or 704"),
        ("image_size", "300:640", "the nearest are 288 and 320"),
        ("image_size", "320:4096", "from 64 to 2048"),
        ("image_size", "640:320", "=640:320: the minimum 640 must be below the maximum 320"),
        ("image_size", "320,640:640", "width,height cannot be the end of a range"),
        ("image_size", "320:640:inf", "above 0 and finite, got inf"),
        ("frozen_stages", "0:9", "from 0 to 4, got 9"),
        ("frozen_stages", "1:3:0.5", "multiple of 1"),
        ("frozen_stages", "0:2:0", "above 0"),
        ("frozen_stages", "0:2:log", "log scale needs a minimum above 0"),
        ("frozen_stages", "0:2:two", "a number or log, got 'two'"),
        ("per_item_lrate", "1e-5:1e-3:1e-40", "must be at least 9.9e-13, got 1e-40"),
        ("per_item_lrate", "auto:1e-3", "must have numbers at both ends of a range, got auto"),
        ("per_item_lrate", "0:1e-3:log", "log scale needs a minimum above 0"),
        ("per_item_lrate", "nan:1e-3", "from 0 to 1"),
        ("per_item_lrate", "1e-5:1e-4:1e-3:log", "too many parts"),
        ("random_resize_lower", "none:640", "must have numbers at both ends of a range, got none"),
        ("max_aspect_ratio", "1:2:log", "a hyperparameter without steps"),
        ("max_aspect_ratio", "1:2:0.3", "the maximum would be 1.9 or 2.2"),
        ("batch_size", "4", "a single value is fixed by --batch_size"),
        ("batch_size", "4|4", "one value only"),
        ("base_model", "yolox_nano:yolox_tiny", "write base_model=yolox_nano|yolox_tiny"),
        ("base_model", "yolox_nano|yolox_huge", "got 'yolox_huge'"),
        ("load_from", None, "no range that could be searched by default"),
    ],
)
def test_what_cannot_be_searched_is_refused(name: str, text: str | None, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_dimension(YOLOX[name], text)
    assert reason in str(caught.value)


def test_a_single_choice_is_not_searched() -> None:
    base_model = get_params(TEMPLATES["yolof"].params)["base_model"]
    with pytest.raises(ValueError, match="has one value only, resnet50: leave it out of the space"):
        parse_dimension(base_model)


def test_a_range_does_not_begin_off_the_grid() -> None:
    """300 pixels is the published size of SSD300, from which no step leads to a valid size."""
    image_size = get_params(TEMPLATES["ssd"].params)["image_size"]
    with pytest.raises(ValueError, match="multiples of 32 at both ends of a range, got 300"):
        parse_dimension(image_size, "300:620:32")
    assert parse_dimension(image_size, "300|320").choices == ("300", "320")
