"""The comparison of two models: what counts as a partner, what a tie explains, and candidates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL

from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import RefusedError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import Scores
from detreg.export import parity
from detreg.export.decode import selection
from detreg.export.decode.selection import DecodedBoxes
from detreg.export.decode.table import DECODERS
from detreg.export.parity import (
    MatchSummary,
    ParityResult,
    count_matches,
    find_unmatched,
    match_models,
    require_match,
)
from detreg.export.ties import Selection, count_ties
from detreg.export.trained_model import TrainedModel
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.inference.from_template import make_card
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.training.compose import compose
from detreg.training.network import build_network, predict

CLASSES = ("boat", "buoy", "crane")
NO_SCORES = Scores(0.0, 0.0, 0.0, None, None, None, {}, np.zeros((10, 101, 0, 4)))
SELECTION = Selection(iou_threshold=0.5, max_detections=300)
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
    without = find_unmatched(exported, trained)
    ties = count_ties(exported, trained, without, everything, selection)
    return sum(map(len, without)), ties


APART: tuple[Row, ...] = ((0, 0.9, 0), (60, 0.7, 1), (120, 0.7, 1), (180, 0.7, 0), (240, 0.3, 2))
"""Five boxes beside one another, three of them with one score."""


def test_equal_detections_are_partners_in_any_order_of_equals() -> None:
    swapped = (APART[0], APART[3], APART[2], APART[1], APART[4])
    matches = count_matches({1: made(*APART)}, {1: made(*swapped)})
    assert (matches.matched, matches.total) == (10, 10)


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
    matches = count_matches({1: made(*exported)}, {1: right})
    assert (matches.matched, matches.total) == (total - without, total)


def test_of_equals_at_the_end_of_a_full_list_either_may_be_the_last() -> None:
    ends = [(120, 0.7, 0), (180, 0.7 + 5e-6, 0), (240, 0.7, 1)]
    first, everything = (0, 0.9, 0), made((0, 0.9, 0), *ends)
    a, b = made(first, ends[0], ends[1]), made(first, ends[1], ends[2])
    full = Selection(iou_threshold=0.5, max_detections=3)
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
    at = Selection(iou_threshold=0.5, max_detections=300, score_threshold=0.6)
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

    def of(max_nms_candidates: int | None, *exported: Row) -> tuple[int, int]:
        selection = Selection(
            iou_threshold=0.5, max_detections=300, max_nms_candidates=max_nms_candidates
        )
        return explained(made(*exported), trained, trained, selection)

    assert of(2, first, second) == (2, 2)
    assert of(3, first, third) == (2, 1)  # the second should be there
    assert of(4, first, second) == of(None, first, second) == (2, 0)


def test_parity_of_nothing_is_no_parity() -> None:
    nothing = {1: made()}
    low = {1: made((0, 0.04, 0))}
    for pair in ((nothing, nothing), (low, low)):
        found = match_models(NOBODY, *pair)
        assert (found.total, found.matched_share, found.passed) == (0, 0.0, False)
        compared = ParityResult(found, NO_SCORES, NO_SCORES)
        assert not compared.passed
        assert "nothing over score 0.05 to compare on 1 images" in compared.summary
        assert "failed" in compared.summary
        with pytest.raises(RefusedError, match="nothing proves that the exported model"):
            require_match(NOBODY, *pair)


def test_the_gate_is_at_its_share() -> None:
    assert MatchSummary(99, 100, 1).passed
    assert not MatchSummary(98, 100, 1).passed
    with pytest.raises(RefusedError, match=r"8 of 10 .* at least 99% of what is compared"):
        shifted = made(*WRONG["a shifted box"][0])
        require_match(NOBODY, {1: shifted}, {1: made(*APART)})


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


def build_model(
    name: str, change: Callable[[Any], None], dataset: Dataset, **values: Any
) -> TrainedModel:
    """Build a network with random weights, changed by `change`, for a small training."""
    template = TEMPLATES[name]
    params, options = parse_settings(template, SMALL[name] | values)
    params = template.resolve(params)
    config = compose(template, params, dataset, options)
    torch.manual_seed(0)
    network = build_network(config.model, None)
    change(network)

    def predict_all() -> dict[int, Detections]:
        return dict(predict(network, config.val_dataloader, dataset.classes, limit=None))

    about = make_card(template, params, dataset.classes, 0.05, dataset.digest, None)
    input_spec = template.get_base_model(params).input
    return TrainedModel(network, template.decoder, input_spec, about, predict_all)


def predict_both(
    model: TrainedModel, dataset: Dataset
) -> tuple[GroundTruth, dict[int, Detections], dict[int, Detections]]:
    """Return the truth of the val split, and what the exported and the trained model find."""
    truth = GroundTruth.load(dataset.splits["val"].annotations)
    trained = {}
    for image, detections in model.predict_all().items():
        trained[image] = detections.filter(0.0, MAX_DETECTIONS)
    return truth, dict(model.export_and_predict(truth)), trained


def read_selection_configs(model: TrainedModel) -> list[dict[str, Any]]:
    """Return copies of the configurations of the network's last selection."""
    configs = DECODERS[model.decoder].get_selection_configs(model.network)
    return [dict(config) for config in configs]


def shift_selected_boxes(monkeypatch: pytest.MonkeyPatch, pixels: float) -> None:
    """Make every export put its boxes `pixels` to the right and below."""
    select_detections = selection.select_detections

    def select_shifted(candidates: DecodedBoxes, *limits: Any) -> DecodedBoxes:
        shifted = candidates._replace(boxes=candidates.boxes + pixels)
        return select_detections(shifted, *limits)

    monkeypatch.setattr(selection, "select_detections", select_shifted)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "yolox" else pytest.mark.slow) for name in SILENT],
)
def test_a_network_that_finds_nothing_is_proven_by_its_candidates(
    name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(tiny)
    model = build_model(name, SILENT[name], dataset)
    truth, exported, trained = predict_both(model, dataset)
    before = read_selection_configs(model)
    assert count_matches(exported, trained).total == 0

    found = match_models(truth, exported, trained, model)
    print(f"\n{name}: {found.summary}")
    assert found.are_candidates and found.passed
    images = len(truth.images)
    assert 20 * images < found.total <= 2 * parity.MAX_CANDIDATES * images
    assert "nothing scores over 0.05, so the best 100 of each image were compared" in found.summary
    assert read_selection_configs(model) == before

    shift_selected_boxes(monkeypatch, 3.0)
    with pytest.raises(RefusedError, match=r"disagrees with the trained one: .* candidates"):
        require_match(truth, exported, trained, model)
    assert read_selection_configs(model) == before


def test_a_network_whose_scores_are_all_alike_is_proven_but_not_with_shifted_boxes(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding alone decides what NMS keeps, and which boxes a full list ends with."""
    dataset = load_dataset(tiny)
    model = build_model("ssd", level, dataset, image_size=96)
    truth, exported, trained = predict_both(model, dataset)
    assert {len(found) for found in trained.values()} == {model.selection.max_detections}
    found = match_models(truth, exported, trained, model)
    print(f"\n{count_matches(exported, trained)} without ties, with them: {found.summary}")
    assert found.passed and not found.are_candidates

    shift_selected_boxes(monkeypatch, 1.0)
    shifted = model.export_and_predict(truth)
    wrong = match_models(truth, shifted, trained, model)
    print(f"shifted: {wrong.summary}")
    assert not wrong.passed and wrong.matched < 0.1 * wrong.total


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn"])
def test_a_changed_selection_is_restored_after_a_failure(name: str, tiny: Path) -> None:
    model = build_model(name, leave, load_dataset(tiny))
    before = read_selection_configs(model)
    with pytest.raises(KeyboardInterrupt), model.override_selection(score_thr=0.0, unknown=1):
        for config in read_selection_configs(model):
            assert config["score_thr"] == 0.0
            assert "unknown" not in config
        raise KeyboardInterrupt
    assert read_selection_configs(model) == before
