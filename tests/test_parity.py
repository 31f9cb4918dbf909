"""The comparison of two models: what counts as a partner, what a tie explains, and candidates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL

from detreg.data.dataset import load_dataset
from detreg.errors import RefusedError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.evaluation.scores import Scores
from detreg.export import decode, graph, parity
from detreg.export.parity import (
    Agreement,
    Parity,
    agree,
    agreement,
    matched,
    unmatched,
)
from detreg.export.subject import Subject, change_selection, selection_configs
from detreg.export.ties import Selection, count_ties
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.from_template import make_card
from detreg.pipeline import settings
from detreg.templates import TEMPLATES
from detreg.training.compose import compose
from detreg.training.engine import build_network, predict

CLASSES = ("boat", "buoy", "crane")
NO_SCORES = Scores(0.0, 0.0, 0.0, None, None, None, {}, np.zeros((10, 101, 0, 4)))
SELECTION = Selection(iou_threshold=0.5, limit=300)
NOBODY = GroundTruth.load(
    {
        "images": [{"id": 1, "file_name": "/none/1.jpg", "width": 300, "height": 300}],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
    }
)
"""A ground truth of one image without boxes."""

Row = tuple[float, float, int]
"""The left side of a box of 40 times 20 pixels, its score and its label."""


def made(*rows: Row) -> Detections:
    """Detections, put in order of score; those of equal score stay as they are given."""
    ordered = sorted(rows, key=lambda row: -row[1])
    boxes = [[left, 10, left + 40, 30] for left, _, _ in ordered]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in ordered], np.float32),
        np.array([label for _, _, label in ordered], np.int64),
        CLASSES,
    )


def explained(
    exported: Detections,
    trained: Detections,
    everything: Detections,
    selection: Selection = SELECTION,
) -> tuple[int, int]:
    """How many detections have no partner, and how many of these ties explain."""
    without = unmatched(exported, trained)
    ties = count_ties(exported, trained, without, everything, selection)
    return sum(map(len, without)), ties


APART: tuple[Row, ...] = ((0, 0.9, 0), (60, 0.7, 1), (120, 0.7, 1), (180, 0.7, 0), (240, 0.3, 2))
"""Five boxes beside one another, three of them with one score."""


def test_equal_detections_are_partners_in_any_order_of_equals() -> None:
    swapped = (APART[0], APART[3], APART[2], APART[1], APART[4])
    assert matched({1: made(*APART)}, {1: made(*swapped)}) == (10, 10)


WRONG: dict[str, tuple[tuple[Row, ...], int]] = {
    "a shifted box": ((*APART[:2], (123, 0.7, 1), *APART[3:]), 2),
    "a swapped label": ((*APART[:2], (120, 0.7, 0), *APART[3:]), 2),
    "a missing detection in the middle": ((*APART[:2], *APART[3:]), 1),
    "a missing detection at the end": (APART[:4], 1),
    "a score off by 0.01": ((*APART[:2], (120, 0.71, 1), *APART[3:]), 2),
    "a detection too many": ((*APART, (120, 0.7, 1)), 1),
    "all shifted": (tuple((left + 3, score, label) for left, score, label in APART), 10),
}


@pytest.mark.parametrize(("exported", "without"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_has_no_partner_and_no_tie_explains_it(
    exported: tuple[Row, ...],
    without: int,
) -> None:
    right = made(*APART)
    assert explained(made(*exported), right, everything=right) == (without, 0)
    total = len(exported) + len(APART)
    assert matched({1: made(*exported)}, {1: right}) == (total - without, total)


def test_of_equals_at_the_end_of_a_full_list_either_may_be_the_last() -> None:
    ends = [(120, 0.7, 0), (180, 0.7 + 5e-6, 0), (240, 0.7, 1)]
    first, everything = (0, 0.9, 0), made((0, 0.9, 0), *ends)
    a, b = made(first, ends[0], ends[1]), made(first, ends[1], ends[2])
    full = Selection(iou_threshold=0.5, limit=3)
    assert explained(a, b, everything, full) == (2, 2)
    # The list has room for more: it should hold all of them.
    assert explained(a, b, everything) == (2, 0)
    # The network has no such candidate: a wrong box took the place of a right one.
    wrong = made(first, (123, 0.7, 0), ends[1])
    assert explained(wrong, b, everything, full) == (2, 0)
    # What is missing scores more than the last: it has its place in any order of equals.
    better = made((0, 0.9, 0), (60, 0.8, 0), ends[1])
    assert explained(a, better, made(*APART, *ends), full)[1] == 1


def test_what_scores_as_much_as_the_threshold_may_be_on_either_side_of_it() -> None:
    at = Selection(iou_threshold=0.5, limit=300, threshold=0.6)
    exported, trained = made((0, 0.9, 0), (60, 0.6 + 5e-6, 0)), made((0, 0.9, 0))
    everything = made((0, 0.9, 0), (60, 0.6 - 5e-6, 0))
    assert explained(exported, trained, everything, at) == (1, 1)
    assert explained(trained, exported, everything, at) == (1, 1)
    above = made((0, 0.9, 0), (60, 0.61, 0))
    assert explained(above, trained, above, at) == explained(trained, above, above, at) == (1, 0)


def test_of_two_equals_that_overlap_nms_keeps_either() -> None:
    """Boxes 10 px apart overlap by 0.6."""
    left, right = (0, 0.7, 0), (10, 0.7 + 5e-6, 0)
    both = made(left, right)
    assert explained(made(left), made(right), both) == (2, 2)
    assert explained(made(right), made(left), both) == (2, 2)
    # A shifted box has the score of the true one and overlaps it, but the network has no such box.
    assert explained(made((13, 0.7, 0)), made(right), both) == (2, 0)
    # The better one must win, and classes have nothing to do with each other.
    worse = (0, 0.69, 0)
    assert explained(made(worse), made(right), made(worse, right)) == (2, 0)
    other = (0, 0.7, 1)
    assert explained(made(other), made(right), made(other, right)) == (2, 0)
    # Far apart, both should be there.
    far = (60, 0.7, 0)
    assert explained(made(left), made(far), made(left, far)) == (2, 0)


def test_a_tie_decides_of_boxes_with_lower_scores_too() -> None:
    """Of a row of boxes, each overlapping the next by 0.6: the first two have one score."""
    a, b, c, d = (0, 0.7, 0), (10, 0.7, 0), (20, 0.6, 0), (30, 0.5, 0)
    everything = made(a, b, c, d)
    assert explained(made(a, c), made(b, d), everything) == (4, 4)
    # Without the tie at its top the whole chain is wrong.
    b_is_better = (10, 0.75, 0)
    assert explained(made(a, c), made(b_is_better, d), made(a, b_is_better, c, d)) == (4, 0)
    # What is between two that both sides keep was dropped for no tie.
    assert explained(made(a, b, c), made(a, b), everything) == (1, 0)


def test_boxes_that_the_exported_nms_never_sees_may_be_missing() -> None:
    rows = [(60.0 * n, 0.9 - 0.1 * n, 0) for n in range(4)]
    first, second, third, _ = rows
    trained = made(*rows)

    def of(entrants: int | None, *exported: Row) -> tuple[int, int]:
        selection = Selection(iou_threshold=0.5, limit=300, entrants=entrants)
        return explained(made(*exported), trained, trained, selection)

    assert of(2, first, second) == (2, 2)
    assert of(3, first, third) == (2, 1)  # the second should be there
    assert of(4, first, second) == of(None, first, second) == (2, 0)


def test_parity_of_nothing_is_no_parity() -> None:
    nothing = {1: made()}
    low = {1: made((0, 0.04, 0))}
    for pair in ((nothing, nothing), (low, low)):
        found = agree(NOBODY, *pair)
        assert (found.detections, found.share, found.passed) == (0, 0.0, False)
        compared = Parity(found, NO_SCORES, NO_SCORES)
        assert not compared.passed
        assert "nothing over score 0.05 to compare on 1 images" in compared.sentence
        assert "failed" in compared.sentence
        with pytest.raises(RefusedError, match="nothing proves that the exported model"):
            agreement(NOBODY, *pair)


def test_the_gate_is_at_its_share() -> None:
    assert Agreement(99, 100, 1).passed
    assert not Agreement(98, 100, 1).passed
    with pytest.raises(RefusedError, match=r"8 of 10 .* at least 99% of what is compared"):
        shifted = made(*WRONG["a shifted box"][0])
        agreement(NOBODY, {1: shifted}, {1: made(*APART)})


def leave(network: Any) -> None:
    """Its scores are about 0.01 from the start."""


def silence_rcnn(network: Any) -> None:
    network.roi_head.bbox_head.fc_cls.bias.data[-1] = 6.0  # the background's


def silence_yolox(network: Any) -> None:
    """It starts with 0.0001 for every class: make one the best, or rounding decides the label."""
    for layer in network.bbox_head.multi_level_conv_cls:
        layer.bias.data[1] += 1.0


def level(network: Any) -> None:
    """Score every box of every class 0.25."""
    for layer in network.bbox_head.cls_convs.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)


SILENT: dict[str, Callable[[Any], None]] = {
    "yolof": leave,
    "yolox": silence_yolox,
    "faster_rcnn": silence_rcnn,
}


def exported_and_trained(
    name: str,
    change: Callable[[Any], None],
    tiny: Path,
    folder: Path,
    **values: Any,
) -> tuple[GroundTruth, Any, Any, Subject]:
    """A network of random weights, changed: the truth, both sides' detections, and the network."""
    template, dataset = TEMPLATES[name], load_dataset(tiny)
    params, options = settings(template, SMALL[name] | values)
    params = template.resolve(params)
    config = compose(template, params, dataset, options)
    torch.manual_seed(0)
    network = build_network(config.model, None)
    change(network)
    about = make_card(template, params, dataset.classes, 0.05, dataset.digest, None)

    def predict_all() -> Any:
        return dict(predict(network, config.val_dataloader, dataset.classes, limit=None))

    subject = Subject(network, template.get_base_model(params).input, about, predict_all)
    truth = GroundTruth.load(dataset.splits["val"].annotations)
    trained = dict(predict(network, config.val_dataloader, dataset.classes))
    path = graph.export(network, subject.input, about, folder / "model.onnx")
    return truth, predict_split(Detector.load(path), truth), trained, subject


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "yolox" else pytest.mark.slow) for name in SILENT],
)
def test_a_network_that_finds_nothing_is_proven_by_its_candidates(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, exported, trained, subject = exported_and_trained(name, SILENT[name], tiny, tmp_path)
    before = [dict(config) for config in selection_configs(subject.network)]
    assert matched(exported, trained) == (0, 0)

    found = agree(truth, exported, trained, subject)
    print(f"\n{name}: {found.sentence}")
    assert found.candidates and found.passed
    images = len(truth.images)
    assert 20 * images < found.detections <= 2 * parity.CANDIDATES * images
    assert "nothing scores over 0.05, so the best 100 of each image were compared" in found.sentence
    assert [dict(config) for config in selection_configs(subject.network)] == before

    right = decode.select
    monkeypatch.setattr(decode, "select", lambda boxes, *rest: right(boxes + 3.0, *rest))
    with pytest.raises(RefusedError, match=r"disagrees with the trained one: .* candidates"):
        agreement(truth, exported, trained, subject)
    assert [dict(config) for config in selection_configs(subject.network)] == before


def test_a_network_whose_scores_are_all_alike_is_proven_but_not_with_shifted_boxes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding alone decides what NMS keeps, and which boxes a full list ends with."""
    made_of = exported_and_trained("ssd", level, tiny, tmp_path, image_size=96)
    truth, exported, trained, subject = made_of
    assert {len(found) for found in trained.values()} == {subject.selection.limit}
    found = agree(truth, exported, trained, subject)
    print(f"\n{matched(exported, trained)} without ties, with them: {found.sentence}")
    assert found.passed and not found.candidates

    right = decode.select
    monkeypatch.setattr(decode, "select", lambda boxes, *rest: right(boxes + 1.0, *rest))
    shifted = subject.export_and_predict(truth)
    wrong = agree(truth, shifted, trained, subject)
    print(f"shifted: {wrong.sentence}")
    assert not wrong.passed and wrong.partners < 0.1 * wrong.detections


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn"])
def test_a_changed_selection_is_restored_after_a_failure(name: str, tiny: Path) -> None:
    template, dataset = TEMPLATES[name], load_dataset(tiny)
    params, options = settings(template, SMALL[name])
    config = compose(template, template.resolve(params), dataset, options)
    network = build_network(config.model, None)
    before = [dict(config) for config in selection_configs(network)]
    with pytest.raises(KeyboardInterrupt), change_selection(network, score_thr=0.0, unknown=1):
        for config in selection_configs(network):
            assert config.score_thr == 0.0 and "unknown" not in config
        raise KeyboardInterrupt
    assert [dict(config) for config in selection_configs(network)] == before
