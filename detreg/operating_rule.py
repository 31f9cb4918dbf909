"""By which rule a model's score threshold is found. Standard library only."""

import math
from dataclasses import dataclass
from typing import Literal

from detreg.shares import parse_share

F1 = "f1"
FORMS = "f1, precision:0.9 or recall:0.95 (with any number between 0 and 1)"

_ROUNDING = 12
"""Decimals of 1 - share, so that 1 - 0.9 is 0.1."""


@dataclass(frozen=True)
class OperatingRule:
    """What the score threshold is to achieve.

    `f1` is the best F1 on the val split. `precision` is the most objects that can be found there
    with at least this precision. `recall` promises that a new image has at least this share of its
    objects found, in expectation. `share` is between 0 and 1, and None for `f1`.
    """

    kind: Literal["f1", "precision", "recall"]
    share: float | None = None

    @property
    def allowed_miss(self) -> float:
        """The share of objects that may be missed. Raises ValueError for another rule."""
        if self.kind != "recall" or self.share is None:
            raise ValueError(f"a rule of kind recall is needed, got {self.kind}")
        return round(1 - self.share, _ROUNDING)

    @property
    def min_images(self) -> int:
        """The fewest images with objects that a promise of recall can be made from.

        One image more than these counts as missed altogether, so 1 / (n + 1) must be allowed.
        """
        images = math.ceil(round(1 / self.allowed_miss, _ROUNDING))
        return images - 1


def parse_operating_rule(text: str) -> OperatingRule:
    """Return the rule of a text such as recall:0.95.

    Raises ValueError, which completes "operating_point must be ...".
    """
    if text == F1:
        return OperatingRule("f1")

    kind, _, number = text.partition(":")
    share = parse_share(number)
    if share is not None:
        if kind == "precision":
            return OperatingRule("precision", share)
        if kind == "recall":
            return OperatingRule("recall", share)
    raise ValueError(f"{FORMS}, got {text[:100]!r}")
