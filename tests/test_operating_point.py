"""The threshold that a rule finds, and that of splits which say little or nothing."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from test_risk_control import simulate_detector

from detreg.defaults import SCORE_THRESHOLD
from detreg.evaluation.operating_point import find_operating_point, find_threshold, round_threshold
from detreg.evaluation.score_curve import JudgedDetections, compute_score_curve
from detreg.inference.operating_point import OperatingPoint
from detreg.operating_rule import OperatingRule, parse_operating_rule

CLASSES = ("boat", "buoy", "crane")

Row = tuple[float, int, int, bool]
"""Score, label, image and whether it is right."""


def judge(rows: list[Row], num_objects: list[list[int]]) -> JudgedDetections:
    rows = sorted(rows, key=lambda row: -row[0])
    return JudgedDetections(
        scores=np.array([row[0] for row in rows], dtype=np.float32).astype(np.float64),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        images=np.array([row[2] for row in rows], dtype=np.int64),
        is_right=np.array([row[3] for row in rows], dtype=bool),
        num_objects=np.array(num_objects, dtype=np.int64).reshape(-1, len(CLASSES)),
    )


MIXED = judge(
    [
        (0.9, 0, 0, True),
        (0.8, 0, 1, True),
        (0.7, 1, 1, False),
        (0.6, 0, 2, True),
        (0.5, 1, 2, True),
        (0.2, 1, 3, False),
        (0.1, 0, 3, False),
    ],
    num_objects=[[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]],
)
NOTHING_TO_FIND = judge([(0.9, 0, 0, False)], num_objects=[[0, 0, 0]])
NOTHING_FOUND = judge([], num_objects=[[1, 0, 0]])
NOTHING_RIGHT = judge([(0.9, 0, 0, False), (0.8, 1, 0, False)], num_objects=[[1, 1, 0]])
EQUAL_SCORES = judge(
    [(0.5, 0, image, image < 4) for image in range(6)], num_objects=[[1, 0, 0]] * 6
)


def find(rule: str, judged: JudgedDetections, given: float | None = None) -> OperatingPoint:
    return find_operating_point(rule, given, CLASSES, {"val": judged, "test": judged})


@pytest.mark.parametrize(
    ("rule", "threshold", "is_kept"),
    [
        # F1 is 8 / 11 with the five best detections, which is the highest.
        ("f1", 0.35, True),
        # Precision is 3 / 4 and 4 / 5 at 0.6 and 0.5, and falls below.
        ("precision:0.75", 0.35, True),
        ("precision:0.9", 0.75, True),
        # 5 objects on 4 images, of which the last is found at no score: (1 + 1) / 5 are missed.
        ("recall:0.6", 0.35, True),
        ("recall:0.7", 0.35, False),
    ],
)
def test_a_rule_finds_its_threshold(rule: str, threshold: float, is_kept: bool) -> None:
    point = find(rule, MIXED)
    assert point.overall.score_threshold == threshold
    assert point.is_kept is is_kept
    assert point.rule == rule
    assert point.split == ("test" if rule.startswith("recall") else "val")
    assert (point.num_images, point.num_objects) == (4, 6)


def test_the_figures_are_those_at_the_threshold() -> None:
    overall = find("f1", MIXED).overall
    assert overall.precision == pytest.approx(4 / 5)
    assert overall.recall == pytest.approx(4 / 6, abs=1e-6)
    assert overall.f1 == pytest.approx(8 / 11, abs=1e-6)


def test_a_given_threshold_overrides_the_rule() -> None:
    point = find("recall:0.95", MIXED, given=0.65)
    assert (point.rule, point.split, point.is_kept) == ("given", "val", True)
    assert point.overall.score_threshold == 0.65
    assert point.overall.precision == pytest.approx(2 / 3, abs=1e-6)
    assert "as given" in point.description


def test_a_precision_out_of_reach_takes_the_highest() -> None:
    judged = judge(
        [(0.9, 0, 0, False), (0.8, 0, 0, True), (0.7, 0, 1, True), (0.6, 0, 1, False)],
        num_objects=[[1, 0, 0], [1, 0, 0]],
    )
    point = find("precision:0.9", judged)
    assert not point.is_kept
    assert point.overall.score_threshold == 0.65
    assert "no threshold has a precision of 0.9" in point.description


def test_each_class_has_its_own_best_threshold() -> None:
    per_class = find("precision:0.9", MIXED).per_class
    # Of crane nothing is found.
    assert list(per_class) == ["boat", "buoy"]
    assert per_class["boat"].score_threshold == 0.35
    assert per_class["boat"].f1 == 1.0
    assert per_class["buoy"].score_threshold == 0.35
    assert per_class["buoy"].precision == 0.5


@pytest.mark.parametrize("rule", ["f1", "precision:0.9", "recall:0.95"])
@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (NOTHING_TO_FIND, "has nothing to find"),
        (NOTHING_FOUND, "nothing that the model finds"),
        (NOTHING_RIGHT, "nothing that the model finds"),
    ],
    ids=["nothing to find", "nothing found", "nothing right"],
)
def test_a_split_without_right_detections_leaves_the_default(
    rule: str, judged: JudgedDetections, words: str
) -> None:
    point = find(rule, judged)
    assert point.overall.score_threshold == SCORE_THRESHOLD
    assert point.overall.interval is None
    assert not point.is_kept
    assert point.per_class == {}
    assert words in point.description
    json.dumps(asdict(point), allow_nan=False)


@pytest.mark.parametrize("rule", ["f1", "precision:0.5", "recall:0.4"])
def test_equal_scores_are_all_kept(rule: str) -> None:
    overall = find(rule, EQUAL_SCORES).overall
    assert overall.score_threshold == 0.25
    assert overall.recall == pytest.approx(4 / 6, abs=1e-6)
    assert overall.interval == (None if rule.startswith("recall") else (0.25, 0.25))


def test_a_few_images_have_no_interval() -> None:
    assert find("f1", MIXED).overall.interval is None


def test_it_reads_back_from_json() -> None:
    for judged in (MIXED, NOTHING_FOUND, EQUAL_SCORES):
        point = find("f1", judged)
        assert OperatingPoint.from_json(json.loads(json.dumps(asdict(point)))) == point


@pytest.mark.parametrize(
    ("scores", "position", "threshold"),
    [
        ([0.9, 0.1], 0, 0.5),
        ([0.9, 0.1], 1, 0.05),
        ([0.501, 0.5], 0, 0.5005),
        ([0.00002], 0, 0.00001),
    ],
)
def test_a_threshold_has_few_decimals(scores: list[float], position: int, threshold: float) -> None:
    exact = np.array(scores, dtype=np.float32).astype(np.float64)
    assert round_threshold(exact, position) == threshold


def test_a_threshold_separates_neighboring_numbers() -> None:
    high = np.float32(0.7)
    scores = np.array([high, np.nextafter(high, np.float32(0))])
    threshold = round_threshold(scores.astype(np.float64), 0)
    assert (scores >= threshold).tolist() == [True, False]


def test_the_interval_holds_the_thresholds_of_other_images() -> None:
    """Of 40 samples of a population, most have an interval with the population's threshold."""
    population = simulate_detector(seed=3)
    rule = OperatingRule("f1")
    expected = find_threshold(population, rule).value
    # F1 is flat at its maximum, so the threshold moves far for little.
    curve = compute_score_curve(population)
    assert curve.f1.max() == pytest.approx(curve.f1[curve.scores >= expected][-1])

    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(40):
        chosen = rng.choice(len(population.num_objects), 100, replace=False)
        found = find_threshold(population.select_images(chosen), rule)
        assert found.interval is not None
        low, high = found.interval
        assert low <= found.value <= high
        covered += low <= expected <= high
    assert covered >= 34


@pytest.mark.parametrize("text", ["f1", "precision:0.9", "recall:0.95", "recall:1e-3"])
def test_a_rule_is_read(text: str) -> None:
    rule = parse_operating_rule(text)
    assert text.startswith(rule.kind)
    assert rule.share is None or 0 < rule.share < 1


@pytest.mark.parametrize(
    "text",
    [
        "F1",
        "f1:0.9",
        "precision",
        "recall:",
        "recall:0",
        "recall:1",
        "recall:95",
        "recall:nan",
        "precision:-0.5",
        "recall:0_9",
        "accuracy:0.9",
        "recall:0.9:0.9",
    ],
)
def test_another_rule_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"f1, precision:0.9 or recall:0.95 .*, got"):
        parse_operating_rule(text)


def test_an_allowed_miss_has_no_rounding_error() -> None:
    rule = parse_operating_rule("recall:0.9")
    assert rule.allowed_miss == 0.1
    assert math.isclose(1 / (rule.min_images + 1), rule.allowed_miss)
