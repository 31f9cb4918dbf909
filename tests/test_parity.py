"""The comparison of two models: what counts as a partner, the gate, and candidates."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from torch import nn
from toy_detections import APART, CLASSES, MISTAKES, Row, make_detections

from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import RefusedError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import Scores
from detreg.export.decode import selection
from detreg.export.decode.selection import DecodedBoxes
from detreg.export.decode.table import DECODERS
from detreg.export.parity import (
    MAX_CANDIDATES,
    MatchSummary,
    ParityResult,
    count_matches,
    match_models,
    require_match,
)
from detreg.export.trained_model import TrainedModel
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.inference.from_template import make_card
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.training.compose import compose
from detreg.training.network import build_network, predict

NO_SCORES = Scores(0.0, 0.0, 0.0, None, None, None, {}, np.zeros((10, 101, 0, 4)))
NO_BOXES = GroundTruth.load(
    {
        "images": [{"id": 1, "file_name": "/none/1.jpg", "width": 300, "height": 300}],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
    }
)
"""A ground truth of one image without boxes."""

Change = Callable[[Any], None]
"""Changes a fresh network."""


def test_equal_detections_are_partners_in_any_order_of_equals() -> None:
    swapped = (APART[0], APART[3], APART[2], APART[1], APART[4])
    matches = count_matches({1: make_detections(*APART)}, {1: make_detections(*swapped)})
    assert (matches.matched, matches.total) == (10, 10)


@pytest.mark.parametrize(("exported", "unmatched"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_has_no_partner(exported: tuple[Row, ...], unmatched: int) -> None:
    matches = count_matches({1: make_detections(*exported)}, {1: make_detections(*APART)})
    total = len(exported) + len(APART)
    assert (matches.matched, matches.total) == (total - unmatched, total)


@pytest.mark.parametrize("rows", [[], [(0, 0.04, 0)]], ids=["nothing", "nothing over 0.05"])
def test_parity_of_nothing_fails(rows: list[Row]) -> None:
    found = {1: make_detections(*rows)}
    matches = match_models(NO_BOXES, found, found)
    assert (matches.total, matches.matched_share, matches.has_passed) == (0, 0.0, False)

    parity = ParityResult(matches, NO_SCORES, NO_SCORES)
    assert not parity.has_passed
    assert "nothing over score 0.05 to compare on 1 images" in parity.summary
    assert "failed" in parity.summary
    with pytest.raises(RefusedError, match="nothing proves that the exported model"):
        require_match(NO_BOXES, found, found)


def test_the_gate_is_at_99_percent() -> None:
    assert MatchSummary(99, 100, 1).has_passed
    assert not MatchSummary(98, 100, 1).has_passed

    rows, _ = MISTAKES["a shifted box"]
    exported, trained = {1: make_detections(*rows)}, {1: make_detections(*APART)}
    with pytest.raises(RefusedError, match=r"8 of 10 .* at least 99% of what is compared"):
        require_match(NO_BOXES, exported, trained)


def test_more_cannot_match_than_there_is() -> None:
    with pytest.raises(ValueError, match=r"must hold, got ties=0, matched=3, total=2"):
        MatchSummary(matched=3, total=2, num_images=1)


def leave_as_it_is(network: Any) -> None:
    """YOLOF's scores are about 0.01 from the start."""


def silence_faster_rcnn(network: Any) -> None:
    """Make the background, which is the last class, the best everywhere."""
    network.roi_head.bbox_head.fc_cls.bias.data[-1] = 6.0


def silence_yolox(network: Any) -> None:
    """Make one class the best, or rounding decides the label.

    YOLOX starts with a score of 0.0001 for every class.
    """
    for layer in network.bbox_head.multi_level_conv_cls:
        layer.bias.data[1] += 1.0


def level_scores(network: Any) -> None:
    """Score every box of every class 0.25."""
    for layer in network.bbox_head.cls_convs.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


SILENCE: dict[str, Change] = {
    "yolof": leave_as_it_is,
    "yolox": silence_yolox,
    "faster_rcnn": silence_faster_rcnn,
}


def build_model(name: str, change: Change, dataset: Dataset, **values: Any) -> TrainedModel:
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

    card = make_card(template, params, dataset.classes, 0.05, dataset.digest, None)
    input_spec = template.get_base_model(params).input
    return TrainedModel(network, template.decoder, input_spec, card, predict_all)


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
    return [deepcopy(dict(config)) for config in configs]


def shift_selected_boxes(monkeypatch: pytest.MonkeyPatch, pixels: float) -> None:
    """Make every export put its boxes `pixels` to the right and below."""
    select_detections = selection.select_detections

    def select_shifted(candidates: DecodedBoxes, *limits: Any) -> DecodedBoxes:
        shifted = candidates._replace(boxes=candidates.boxes + pixels)
        return select_detections(shifted, *limits)

    monkeypatch.setattr(selection, "select_detections", select_shifted)


@pytest.mark.parametrize(
    "name",
    [
        "yolox",
        pytest.param("yolof", marks=pytest.mark.slow),
        pytest.param("faster_rcnn", marks=pytest.mark.slow),
    ],
)
def test_parity_of_a_network_that_finds_nothing_compares_candidates(
    name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(tiny)
    model = build_model(name, SILENCE[name], dataset)
    truth, exported, trained = predict_both(model, dataset)
    before = read_selection_configs(model)
    assert count_matches(exported, trained).total == 0

    matches = match_models(truth, exported, trained, model)
    assert matches.are_candidates
    assert matches.has_passed, matches.summary
    num_images = len(truth.images)
    assert 20 * num_images < matches.total <= 2 * MAX_CANDIDATES * num_images
    reason = "nothing scores over 0.05, so the best 100 of each image were compared"
    assert reason in matches.summary
    assert read_selection_configs(model) == before

    shift_selected_boxes(monkeypatch, 3.0)
    with pytest.raises(RefusedError, match=r"disagrees with the trained one: .* candidates"):
        require_match(truth, exported, trained, model)
    assert read_selection_configs(model) == before


def test_parity_of_equal_scores_passes_by_ties_but_not_with_shifted_boxes(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding alone decides what NMS keeps, and which boxes a full list ends with."""
    dataset = load_dataset(tiny)
    model = build_model("ssd", level_scores, dataset, image_size=96)
    truth, exported, trained = predict_both(model, dataset)
    assert {len(found) for found in trained.values()} == {model.selection.max_detections}
    matches = match_models(truth, exported, trained, model)
    assert matches.has_passed, matches.summary
    assert not matches.are_candidates

    shift_selected_boxes(monkeypatch, 1.0)
    shifted = model.export_and_predict(truth)
    wrong = match_models(truth, shifted, trained, model)
    assert not wrong.has_passed
    assert wrong.matched < 0.1 * wrong.total


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn"])
def test_a_changed_selection_is_restored_after_a_failure(name: str, tiny: Path) -> None:
    model = build_model(name, leave_as_it_is, load_dataset(tiny))
    before = read_selection_configs(model)
    assert max(map(len, model.predict_candidates(0.0).values())) > 0
    assert read_selection_configs(model) == before

    with pytest.raises(KeyboardInterrupt), model.override_selection(score_thr=0.0, unknown=1):
        for config in read_selection_configs(model):
            assert config["score_thr"] == 0.0
            assert "unknown" not in config
        raise KeyboardInterrupt
    assert read_selection_configs(model) == before
