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


def test_amp_beside_a_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="amp=false is the former way to say precision=fp32"):
        rename_former_options({"amp": "false", "precision": "bf16"})


def test_another_amp_is_refused_by_its_new_name() -> None:
    with pytest.raises(UsageError, match="amp must be true or false, got 'yes'; it is called prec"):
        parse_settings(YOLOX, {"amp": "yes"})
