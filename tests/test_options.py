"""Run options under their former names."""

import pytest

from detreg.errors import UsageError
from detreg.options import rename_former_options
from detreg.pipeline import parse_settings
from detreg.sweeps.request import make_request
from detreg.templates import TEMPLATES

YOLOX = TEMPLATES["yolox"]


@pytest.mark.parametrize(
    ("amp", "precision"), [(True, "fp16"), ("true", "fp16"), (False, "fp32"), ("false", "fp32")]
)
def test_amp_is_a_precision(amp: object, precision: str) -> None:
    _, options = parse_settings(YOLOX, {"amp": amp})
    assert options.precision == precision
    assert make_request((YOLOX,), {"amp": amp}).options.precision == precision


@pytest.mark.parametrize("rule", ["f1", "precision:0.9", "recall:0.95", "recall:0.5"])
def test_an_operating_point_is_a_rule(rule: str) -> None:
    _, options = parse_settings(YOLOX, {"operating_point": rule})
    assert options.operating_point == rule
    assert options.score_threshold is None


def test_another_operating_point_is_refused_with_all_other_problems() -> None:
    with pytest.raises(UsageError) as refused:
        parse_settings(YOLOX, {"operating_point": "recall:95", "batch_size": 99})
    batch_size, operating_point = refused.value.problems
    assert "batch_size must be" in batch_size
    assert operating_point == (
        "operating_point must be f1, precision:0.9 or recall:0.95 (with any number between 0 and "
        "1), got 'recall:95'"
    )


@pytest.mark.parametrize(("text", "value"), [("auto", None), ("0.4", 0.4), ("0", 0.0)])
def test_a_score_threshold_is_found_or_given(text: str, value: float | None) -> None:
    _, options = parse_settings(YOLOX, {"score_threshold": text})
    assert options.score_threshold == value


def test_amp_beside_a_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="amp=false is the former way to say precision=fp32"):
        rename_former_options({"amp": "false", "precision": "bf16"})


def test_another_amp_is_refused_by_its_new_name() -> None:
    with pytest.raises(UsageError, match="amp must be true or false, got 'yes'; it is called prec"):
        parse_settings(YOLOX, {"amp": "yes"})


FASTER_RCNN = TEMPLATES["faster_rcnn"]


@pytest.mark.parametrize(
    ("values", "metric"),
    [
        ({}, "mAP"),
        ({"masks": True}, "segm_mAP"),
        ({"masks": True, "metric": "mAP"}, "mAP"),
        ({"masks": True, "metric": "segm_mAP"}, "segm_mAP"),
    ],
)
def test_a_training_goes_by_its_masks_unless_told_otherwise(
    values: dict[str, object], metric: str
) -> None:
    params, options = parse_settings(FASTER_RCNN, values)
    assert options.choose_metric(has_masks=params.has_masks) == metric


def test_the_score_of_masks_needs_masks() -> None:
    problem = "metric=segm_mAP needs a training with masks=true"
    with pytest.raises(UsageError, match=problem):
        parse_settings(FASTER_RCNN, {"metric": "segm_mAP"})
    with pytest.raises(UsageError, match=problem):
        make_request((FASTER_RCNN,), {"metric": "segm_mAP", "space": "masks=true|false"})
