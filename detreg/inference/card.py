"""The card that travels inside every ONNX file: enough to use the file without detreg."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from detreg.errors import DataError, UsageError
from detreg.inference.preprocessing import Preprocessing

METADATA_KEY = "detreg"
"""The metadata property of the ONNX file that holds the card as JSON."""

FORMAT = 2
"""The format that this detreg writes. It reads format 1 too, which had one gray level as `pad_value` and spelled `normalisation`."""


@dataclass(frozen=True)
class Card:
    """What one needs to know about an ONNX file.

    `normalization` (mean, std, channels) is for the reader: the graph applies it. `eid` is the MLflow run that made the file, where
    there is one. `hyperparameters` holds JSON values only, so that a card reads back equal to what was written.
    """

    template: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    normalization: dict[str, Any]
    hyperparameters: dict[str, Any]
    eid: str | None
    dataset_digest: str | None
    score_threshold: float
    detreg_version: str
    format: int = FORMAT

    def to_json(self) -> str:
        """The card as JSON, with a section `usage` that says in words how the file is used."""
        return json.dumps({**asdict(self), "usage": _usage(self.preprocessing)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Reads what `to_json` wrote; keys that it does not know are left alone.

        Raises DataError for text that is no card, that lacks keys, or that a newer detreg wrote.
        """
        values = _mapping(text)
        written = values.get("format", 1)
        if written == 1:
            values = _from_format_1(values)
        elif written != FORMAT:
            raise DataError(
                f"The card has format {written}, this detreg reads formats 1 to {FORMAT}: update detreg, or export the model again"
            )
        missing = [
            field.name
            for field in fields(cls)
            if field.name != "format" and field.name not in values
        ]
        if missing:
            raise DataError(f"The card lacks {', '.join(missing)}: export the model again")
        try:
            preprocessing = {**values["preprocessing"]}
            for name in ("image_size", "pad_value"):
                preprocessing[name] = tuple(preprocessing[name])
            known = {
                field.name: values[field.name] for field in fields(cls) if field.name in values
            }
            known |= {
                "classes": tuple(values["classes"]),
                "preprocessing": Preprocessing(**preprocessing),
            }
            return cls(**known)
        except (KeyError, TypeError, UsageError) as error:
            raise DataError(
                f"The card's preprocessing or classes cannot be read ({error}): export the model again"
            ) from error


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"The card is not JSON ({error}): export the model again") from error
    if not isinstance(values, dict):
        raise DataError(
            f"The card is a JSON {type(values).__name__}, not an object: export the model again"
        )
    return values


def _from_format_1(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of an old card as format 2 has them; what is wrong with them is found afterwards."""
    values = {**values, "format": FORMAT}
    if "normalisation" in values:
        values["normalization"] = values.pop("normalisation")
    preprocessing = values.get("preprocessing")
    if isinstance(preprocessing, dict) and isinstance(preprocessing.get("pad_value"), int):
        values["preprocessing"] = {**preprocessing, "pad_value": [preprocessing["pad_value"]] * 3}
    return values


def _usage(preprocessing: Preprocessing) -> dict[str, str]:
    if preprocessing.exact_size:
        resize = "Resize (bilinear) to exactly {} x {} pixels".format(*preprocessing.exact_size)
    else:
        resize = (
            "Resize (bilinear) by one factor, the largest with which the longer side is at most {} and the shorter at most {} pixels; "
            "sides are rounded to the nearest integer"
        ).format(*preprocessing.limits)
    if preprocessing.fixed_canvas:
        pad = "to {} x {} pixels".format(*preprocessing.fixed_canvas)
    else:
        pad = f"until both sides have at least {preprocessing.smallest_input} pixels and divide by {preprocessing.pad_divisor}"
    red, green, blue = preprocessing.pad_value
    return {
        "before": f"{resize}. Pad right and below with the pixel ({red}, {green}, {blue}) {pad}.",
        "inputs": "images: uint8 (batch, height, width, 3), RGB, resized and padded as above; the graph normalizes.",
        "outputs": (
            "boxes: float32 (batch, k, 4), x1 y1 x2 y2 in pixels of the input; scores: float32 (batch, k), descending; "
            "labels: int64 (batch, k), positions in classes. The graph decodes and suppresses overlaps. "
            "Rows beyond the detections have score 0 and label -1."
        ),
        "after": "Keep rows with label >= 0 and score >= score_threshold; divide x by resized width / original width, y likewise.",
    }
