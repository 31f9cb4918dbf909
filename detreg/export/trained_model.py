"""A trained network, which parity can make look at the same images again."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export.decode.table import DECODERS
from detreg.export.graph import export_onnx
from detreg.export.ties import Selection
from detreg.inference.card import Card
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.inference.detector import Detector
from detreg.templates.input_spec import InputSpec
from detreg.templates.template import DecoderName

Predictions = Mapping[int, Detections]
"""Detections by image id."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, and what it takes to export it and to predict with it.

    `decoder`, `input_spec` and `card` are those of the export. `predict_all` runs MMDetection's own
    prediction on the images, as the network is configured at that moment, and drops no detection.
    """

    network: nn.Module
    decoder: DecoderName
    input_spec: InputSpec
    card: Card
    predict_all: Callable[[], Predictions]

    def export(self, path: Path) -> Path:
        """Write the network as an ONNX file; see `export_onnx`."""
        return export_onnx(self.network, self.decoder, self.input_spec, self.card, path)

    @property
    def selection(self) -> Selection:
        """How the network selects its detections, read from its configuration."""
        decoder = DECODERS[self.decoder]
        config = decoder.get_selection_configs(self.network)[0]
        limit = int(config.get("max_per_img", MAX_DETECTIONS))
        return Selection(
            iou_threshold=float(config.nms.iou_threshold),
            max_detections=min(limit, MAX_DETECTIONS),
            score_threshold=float(config.score_thr),
            max_nms_candidates=decoder.max_nms_candidates,
        )

    def export_and_predict(self, truth: GroundTruth) -> Predictions:
        """Export the network as it is configured now to a temporary file, and run that file."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.export(Path(folder) / "again.onnx")
            return predict_split(Detector.load(path), truth)

    def predict_candidates(self, min_score: float) -> Predictions:
        """Return every candidate over a score that MMDetection finds, without NMS or limit.

        They have no masks.
        """
        config = DECODERS[self.decoder].get_selection_configs(self.network)[0]
        nms = config.nms.copy()
        nms.iou_threshold = 1.0
        no_limit = int(np.iinfo(np.int32).max)
        with (
            self._leave_out_masks(),
            self.override_selection(score_thr=min_score, nms=nms, max_per_img=no_limit),
        ):
            return self.predict_all()

    @contextmanager
    def _leave_out_masks(self) -> Iterator[None]:
        """Predict boxes only: there may be ten thousands, and each mask takes a small network."""
        network: Any = self.network
        if not network.with_mask:
            yield
            return
        network.roi_head.predicts_masks = False
        try:
            yield
        finally:
            network.roi_head.predicts_masks = True

    @contextmanager
    def override_selection(self, **values: object) -> Iterator[None]:
        """Change how the network selects its detections, and restore it at the end.

        `values` are keys of its configuration (`score_thr`, `nms`, `max_per_img`); those that it
        does not have are ignored. Two stages have them under `rcnn`; the selection of proposals
        stays the same.
        """
        configs = DECODERS[self.decoder].get_selection_configs(self.network)
        # All are read before any is changed: the two configurations may be the same object.
        originals = []
        for config in configs:
            originals.append({name: config[name] for name in values if name in config})

        try:
            # `update` would write into a nested original, which then could not be restored.
            for config, original in zip(configs, originals, strict=True):
                for name in original:
                    config[name] = values[name]
            yield
        finally:
            for config, original in zip(configs, originals, strict=True):
                for name, value in original.items():
                    config[name] = value
