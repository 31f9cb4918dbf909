"""Which differences between two lists of detections are nothing but ties."""

import pytest
from toy_detections import APART, MISTAKES, Row, make_detections

from detreg.export.parity import find_unmatched
from detreg.export.ties import Selection, count_ties
from detreg.inference.detections import Detections

SELECTION = Selection(iou_threshold=0.5, max_detections=300)


def count_explained(
    exported: Detections,
    trained: Detections,
    candidates: Detections,
    selection: Selection = SELECTION,
) -> tuple[int, int]:
    """Return how many detections have no partner, and how many of these ties explain."""
    unmatched_exported, unmatched_trained = find_unmatched(exported, trained)
    unmatched = (unmatched_exported, unmatched_trained)
    ties = count_ties(exported, trained, unmatched, candidates, selection)
    return len(unmatched_exported) + len(unmatched_trained), ties


@pytest.mark.parametrize(("exported", "unmatched"), MISTAKES.values(), ids=MISTAKES.keys())
def test_no_tie_explains_a_mistake(exported: tuple[Row, ...], unmatched: int) -> None:
    right = make_detections(*APART)
    assert count_explained(make_detections(*exported), right, candidates=right) == (unmatched, 0)


def test_of_equals_at_the_end_of_a_full_list_either_may_be_the_last() -> None:
    first, ends = (0, 0.9, 0), [(120, 0.7, 0), (180, 0.7 + 5e-6, 0), (240, 0.7, 1)]
    candidates = make_detections(first, *ends)
    a = make_detections(first, ends[0], ends[1])
    b = make_detections(first, ends[1], ends[2])
    full = Selection(iou_threshold=0.5, max_detections=3)
    assert count_explained(a, b, candidates, full) == (2, 2)

    # The list has room for more: it should hold all of them.
    assert count_explained(a, b, candidates) == (2, 0)

    # The network has no such candidate: a wrong box took the place of a right one.
    wrong = make_detections(first, (123, 0.7, 0), ends[1])
    assert count_explained(wrong, b, candidates, full) == (2, 0)

    # What is missing scores more than the last: it has its place in any order of equals.
    better = make_detections(first, (60, 0.8, 0), ends[1])
    _, ties = count_explained(a, better, make_detections(*APART, *ends), full)
    assert ties == 1


def test_a_score_at_the_threshold_may_be_on_either_side_of_it() -> None:
    selection = Selection(iou_threshold=0.5, max_detections=300, score_threshold=0.6)
    with_it = make_detections((0, 0.9, 0), (60, 0.6 + 5e-6, 0))
    without_it = make_detections((0, 0.9, 0))
    candidates = make_detections((0, 0.9, 0), (60, 0.6 - 5e-6, 0))
    assert count_explained(with_it, without_it, candidates, selection) == (1, 1)
    assert count_explained(without_it, with_it, candidates, selection) == (1, 1)

    above = make_detections((0, 0.9, 0), (60, 0.61, 0))
    assert count_explained(above, without_it, above, selection) == (1, 0)
    assert count_explained(without_it, above, above, selection) == (1, 0)


def test_of_two_equals_that_overlap_nms_keeps_either() -> None:
    """Boxes 10 px apart overlap by 0.6."""
    left, right = make_detections((0, 0.7, 0)), make_detections((10, 0.7 + 5e-6, 0))
    both = make_detections((0, 0.7, 0), (10, 0.7 + 5e-6, 0))
    assert count_explained(left, right, both) == (2, 2)
    assert count_explained(right, left, both) == (2, 2)


@pytest.mark.parametrize(
    ("row", "is_candidate"),
    [
        # A shifted box has the score of the true one and overlaps it, but the network has no such.
        ((13, 0.7, 0), False),
        # The better one must win.
        ((0, 0.69, 0), True),
        # Classes have nothing to do with each other.
        ((0, 0.7, 1), True),
        # Far apart, both should be there.
        ((60, 0.7, 0), True),
    ],
    ids=["no candidate", "a lower score", "another class", "far apart"],
)
def test_nms_does_not_keep_this_for_an_equal(row: Row, is_candidate: bool) -> None:
    right = (10, 0.7 + 5e-6, 0)
    left = (0, 0.7, 0)
    candidates = make_detections(row if is_candidate else left, right)
    assert count_explained(make_detections(row), make_detections(right), candidates) == (2, 0)


def test_a_tie_decides_about_boxes_with_lower_scores_too() -> None:
    """Of a row of boxes, each overlapping the next by 0.6: the first two have one score."""
    a, b, c, d = (0, 0.7, 0), (10, 0.7, 0), (20, 0.6, 0), (30, 0.5, 0)
    candidates = make_detections(a, b, c, d)
    assert count_explained(make_detections(a, c), make_detections(b, d), candidates) == (4, 4)

    # Without the tie at its top the whole chain is wrong.
    better = (10, 0.75, 0)
    candidates_without_tie = make_detections(a, better, c, d)
    exported, trained = make_detections(a, c), make_detections(better, d)
    assert count_explained(exported, trained, candidates_without_tie) == (4, 0)

    # What lies between two that both sides have was dropped for no tie.
    assert count_explained(make_detections(a, b, c), make_detections(a, b), candidates) == (1, 0)


@pytest.mark.parametrize(
    ("max_nms_candidates", "found", "expected"),
    [
        (2, [0, 1], (2, 2)),
        (3, [0, 2], (2, 1)),  # the second should be there
        (4, [0, 1], (2, 0)),
        (None, [0, 1], (2, 0)),
    ],
)
def test_boxes_that_the_exported_nms_never_sees_may_be_missing(
    max_nms_candidates: int | None, found: list[int], expected: tuple[int, int]
) -> None:
    rows = [(60.0 * number, 0.9 - 0.1 * number, 0) for number in range(4)]
    trained = make_detections(*rows)
    exported = make_detections(*(rows[position] for position in found))
    selection = Selection(0.5, max_detections=300, max_nms_candidates=max_nms_candidates)
    assert count_explained(exported, trained, trained, selection) == expected
