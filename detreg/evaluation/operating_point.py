"""At which score a model is used: the threshold that a rule asks for, with its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detreg.defaults import SCORE_THRESHOLD
from detreg.evaluation.risk_control import find_controlled_position, find_last_gain
from detreg.evaluation.score_curve import (
    Floats,
    JudgedDetections,
    compute_score_curve,
    find_score_ends,
)
from detreg.evaluation.threshold_interval import choose_positions, find_position_interval
from detreg.inference.operating_point import OperatingPoint, ThresholdFigures
from detreg.operating_rule import OperatingRule, parse_operating_rule

GIVEN = "given"
"""The rule of a threshold that the user has set."""

_DIGITS = 6
"""Of precision, recall and F1 in a card."""
_BEST_F1 = OperatingRule("f1")


@dataclass(frozen=True)
class FoundThreshold:
    """A threshold that a rule has found, and whether it does what the rule asks for."""

    value: float
    is_kept: bool
    interval: tuple[float, float] | None = None


def find_operating_point(
    rule_text: str,
    given_threshold: float | None,
    classes: Sequence[str],
    judged: Mapping[str, JudgedDetections],
) -> OperatingPoint:
    """Return the operating point of a model from what it finds on the splits `judged`, by name.

    There is always `val`; a rule of kind recall needs `test`, which has not chosen the checkpoint.
    `given_threshold` overrides the rule. Raises ValueError for a rule without its split.
    """
    rule = parse_operating_rule(rule_text)
    split = "val"
    if rule.kind == "recall" and given_threshold is None:
        split = "test"
    if split not in judged:
        raise ValueError(f"{rule_text} needs a {split} split")

    chosen = judged[split]
    if given_threshold is not None:
        found = FoundThreshold(given_threshold, is_kept=True)
    else:
        found = find_threshold(chosen, rule)

    overall = measure_figures(chosen, found.value, found.interval)
    is_given = given_threshold is not None
    return OperatingPoint(
        rule=GIVEN if is_given else rule_text,
        is_kept=found.is_kept,
        split=split,
        num_images=len(chosen.num_objects),
        num_objects=int(chosen.num_objects.sum()),
        overall=overall,
        per_class=_find_best_per_class(judged["val"], classes),
        description=_describe(None if is_given else rule, found, overall, chosen, split),
    )


def find_threshold(judged: JudgedDetections, rule: OperatingRule) -> FoundThreshold:
    """Return the threshold of a rule.

    Where none does what the rule asks for, it is the one that comes nearest to it; where nothing is
    found, so that no threshold is better than another, the default.
    """
    if not judged.is_right.any():
        return FoundThreshold(SCORE_THRESHOLD, is_kept=False)

    scores = judged.scores[find_score_ends(judged.scores)]
    if rule.kind == "recall":
        # A promise is about the threshold itself, not about where other images would put it.
        position = find_controlled_position(judged, rule.allowed_miss)
        is_kept = position is not None
        if position is None:
            position = find_last_gain(judged)
        return FoundThreshold(round_threshold(scores, position), is_kept)

    curve = compute_score_curve(judged)
    candidates = curve.find_gains()
    precision = curve.precision[candidates]
    chosen = choose_positions(precision[None], curve.f1[candidates][None], rule)
    position = int(candidates[chosen[0]])

    interval = None
    positions = find_position_interval(judged, candidates, rule)
    if positions is not None:
        lowest, highest = (round_threshold(scores, place) for place in reversed(positions))
        interval = (lowest, highest)
    is_kept = rule.share is None or bool(curve.precision[position] >= rule.share)
    return FoundThreshold(round_threshold(scores, position), is_kept, interval)


def round_threshold(scores: Floats, position: int) -> float:
    """Return a threshold that keeps the score at a position and drops the next one.

    `scores` is float64 (k,), different and descending. The threshold is near the middle between the
    two, with few decimals: so rounding on another processor moves no detection to its other side.
    """
    high = float(scores[position])
    low = float(scores[position + 1]) if position + 1 < len(scores) else 0.0
    middle = (low + high) / 2
    for digits in range(2, 9):
        rounded = round(middle, digits)
        is_near = abs(rounded - middle) <= (high - low) / 4
        # Scores are float32, and are compared as such.
        if is_near and low < float(np.float32(rounded)) <= high:
            return rounded
    return high


def measure_figures(
    judged: JudgedDetections, threshold: float, interval: tuple[float, float] | None = None
) -> ThresholdFigures:
    """Measure precision, recall and F1 of the detections that reach a threshold."""
    is_kept = judged.scores.astype(np.float32) >= threshold
    num_kept = int(is_kept.sum())
    num_right = int(judged.is_right[is_kept].sum())
    num_objects = int(judged.num_objects.sum())
    return ThresholdFigures(
        score_threshold=threshold,
        interval=interval,
        precision=_divide(num_right, num_kept),
        recall=_divide(num_right, num_objects),
        f1=_divide(2 * num_right, num_kept + num_objects),
    )


def _divide(numerator: int, denominator: int) -> float | None:
    return round(numerator / denominator, _DIGITS) if denominator else None


def _find_best_per_class(
    judged: JudgedDetections, classes: Sequence[str]
) -> dict[str, ThresholdFigures]:
    """Return the threshold with the best F1 of each class of which anything is found."""
    per_class = {}
    for label, name in enumerate(classes):
        of_class = judged.select_class(label)
        if of_class.is_right.any():
            best = find_threshold(of_class, _BEST_F1)
            per_class[name] = measure_figures(of_class, best.value, best.interval)
    return per_class


def _describe(
    rule: OperatingRule | None,
    found: FoundThreshold,
    figures: ThresholdFigures,
    judged: JudgedDetections,
    split: str,
) -> str:
    """Return the operating point in a sentence; `rule` is None where the threshold was given."""
    num_objects = int(judged.num_objects.sum())
    counts = f"{len(judged.num_objects)} images with {num_objects} objects"
    place = f"the {split} split ({counts})"
    start = f"score threshold {found.value:g}"
    if rule is None:
        return f"{start}, as given; on {place} it has {_list_figures(figures)}"

    if not num_objects:
        return f"{start}, the default: {place} has nothing to find"
    if not judged.is_right.any():
        return f"{start}, the default: nothing that the model finds on {place} is right"
    if found.interval is not None:
        low, high = found.interval
        start += f" (95 % interval {low:g} to {high:g})"
    return f"{start}: {_describe_rule(rule, found.is_kept, place)}; {_list_figures(figures)}"


def _describe_rule(rule: OperatingRule, is_kept: bool, place: str) -> str:
    if rule.kind == "f1":
        return f"the best F1 on {place}"
    if rule.kind == "precision":
        if is_kept:
            return f"the most objects with a precision of at least {rule.share:g} on {place}"
        return f"no threshold has a precision of {rule.share:g} on {place}, this one the highest"
    if is_kept:
        return (
            f"of the objects of a new image at most {rule.allowed_miss:.3g} are missed in "
            f"expectation, calibrated on {place}"
        )
    return (
        f"no threshold can promise that {rule.share:g} of the objects are found, from {place}; "
        "this one finds what the model finds at all"
    )


def _list_figures(figures: ThresholdFigures) -> str:
    """Return precision, recall and F1 in words, without those that are not defined."""
    parts = []
    for name in ("precision", "recall", "f1"):
        value = getattr(figures, name)
        if value is not None:
            parts.append(f"{name.replace('f1', 'F1')} {value:.3f}")
    return ", ".join(parts) or "no figures, as there is nothing to find and nothing found"
