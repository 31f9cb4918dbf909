"""By which rule a new version of a registered model becomes champion. Standard library only."""

from dataclasses import dataclass
from typing import Literal

from detreg.shares import parse_share

BETTER = "better"
NEVER = "never"
FORMS = "better, not_worse:0.01 (with any number over 0 and under 1) or never"


@dataclass(frozen=True)
class PromotionRule:
    """What a version has to show against the champion on the same images.

    `better`: that its mAP is higher. `not_worse`: that its mAP is not lower by `margin`, between 0
    and 1, or more. `never`: it becomes champion by hand only.
    """

    kind: Literal["better", "not_worse", "never"]
    margin: float = 0.0

    def accepts(self, lowest_difference: float) -> bool:
        """Whether the low end of the interval of the difference of mAPs is enough."""
        return self.kind != NEVER and lowest_difference > -self.margin


def parse_promotion_rule(text: str) -> PromotionRule:
    """Return the rule of a text such as not_worse:0.01.

    Raises ValueError, which completes "promote_if must be ...".
    """
    if text == BETTER:
        return PromotionRule("better")
    if text == NEVER:
        return PromotionRule("never")

    kind, _, number = text.partition(":")
    margin = parse_share(number)
    if kind == "not_worse" and margin is not None:
        return PromotionRule("not_worse", margin)
    raise ValueError(f"{FORMS}, got {text[:100]!r}")
