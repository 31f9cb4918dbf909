"""Spaces for the tests of sweeps."""

import pytest

from detreg.errors import UsageError
from detreg.options import RunOptions, SweepOptions
from detreg.sweeps.plan import Plan
from detreg.sweeps.space import Space
from detreg.sweeps.space_text import parse_space
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams


def make_space(templates: str, text: str | None = None, **fixed: object) -> Space:
    """Return the space of templates with commas between."""
    return parse_space([TEMPLATES[name] for name in templates.split(",")], text, fixed)


def get_problems(templates: str, text: str | None = None, **fixed: object) -> list[str]:
    """Return why a space is refused."""
    with pytest.raises(UsageError) as caught:
        make_space(templates, text, **fixed)
    return list(caught.value.problems)


def get_first_params(space: Space, template: str) -> CommonParams:
    """Return the hyperparameters of a template's first trial, as a worker gets them."""
    plan = Plan(space, RunOptions(), SweepOptions(), "0123456789abcdef", "sqlite:///sweeps.db")
    return plan.get_first_params(TEMPLATES[template])
