"""Exports a checkpoint that no run of detreg has exported."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from detreg.data.dataset import load_dataset
from detreg.defaults import SCORE_THRESHOLD
from detreg.errors import DataError, UsageError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export.parity import require_match
from detreg.export.trained_model import TrainedModel
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.from_template import make_card
from detreg.inference.images import read_image
from detreg.memory import find_memory_error
from detreg.params import build
from detreg.tasks.images import find_images
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.checkpoints import Checkpoint
from detreg.training.compose import compose_network, load_published_config
from detreg.training.initial_weights import load_named_weights
from detreg.training.loaders import compose_scoring_loader
from detreg.training.network import build_network, predict
from detreg.training.transfer import has_mask_head


def export_checkpoint(
    template: Template, values: Mapping[str, Any], images: str | None, out: str
) -> str:
    """Export a checkpoint (`load_from` among `values`) and compare the file with the network.

    `images` is a folder to compare on; None takes the sample's images. Returns the comparison in
    words. Raises UsageError where the checkpoint names no classes, DataError where it does not fit
    the base model, RefusedError where the exported model disagrees with the network.
    """
    params = template.resolve(build(template.params, values))
    checkpoint = load_named_weights(template, params)
    network = _build_network(template, params, checkpoint)
    classes = checkpoint.classes

    with tempfile.TemporaryDirectory() as folder:
        annotations = _write_annotations(images, classes, Path(folder))
        truth = GroundTruth.load(annotations)
        loader = compose_scoring_loader(template, params, annotations, classes, num_workers=0)
        trained = dict(predict(network, loader, classes))

        def predict_all() -> Mapping[int, Detections]:
            return dict(predict(network, loader, classes, limit=None))

        card = make_card(
            template,
            params,
            classes,
            score_threshold=SCORE_THRESHOLD,
            dataset_digest=None,
            eid=None,
        )
        input_spec = template.get_base_model(params).input
        model = TrainedModel(network, template.decoder, input_spec, card, predict_all)
        detector = Detector.load(model.export(Path(out)))
        exported = predict_split(detector, truth)
        return require_match(truth, exported, trained, model)


def _build_network(template: Template, params: CommonParams, checkpoint: Checkpoint) -> nn.Module:
    # The strongest source but continue_from_eid, as load_named_weights takes it.
    named = {name: value for name, value in params.sources.items() if name != "continue_from_eid"}
    name, value = next(iter(named.items()))
    if not checkpoint.classes:
        raise UsageError(
            f"{name}={value} does not name its classes (meta.dataset_meta.CLASSES): a label would "
            "be a number only"
        )

    if params.has_masks != has_mask_head(checkpoint.state_dict):
        advice = "finds boxes only: leave out masks" if params.has_masks else "has masks: add masks"
        raise DataError(f"{name}={value} {advice}=true")

    published = load_published_config(template, params)
    config = compose_network(template, params, published, len(checkpoint.classes))
    try:
        return build_network(config, checkpoint.state_dict)
    except RuntimeError as error:
        if without_memory := find_memory_error(error):
            raise without_memory from error
        raise DataError(
            f"{name}={value} does not fit base_model={params.base_model}: name the one it was "
            "trained with"
        ) from error


def _write_annotations(images: str | None, classes: tuple[str, ...], folder: Path) -> Path:
    """Write a canonical COCO file of images that nobody labeled, or return the sample's."""
    if images is None:
        return load_dataset("sample").splits["val"].annotations

    entries = []
    for number, file in enumerate(find_images([images]), start=1):
        height, width = read_image(file).shape[:2]
        entries.append(
            {"id": number, "file_name": str(file.resolve()), "width": width, "height": height}
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]

    path = folder / "images.json"
    path.write_text(json.dumps({"images": entries, "annotations": [], "categories": categories}))
    return path
