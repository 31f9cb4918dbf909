"""The card that travels inside every ONNX file: enough to use the file without detreg."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from detreg.errors import DataError, UsageError, quote, summarize_error
from detreg.inference.operating_point import OperatingPoint
from detreg.inference.outputs import MASKS, OUTPUTS, OUTPUTS_FORMAT, REQUIRED_OUTPUTS
from detreg.inference.preprocessing import Preprocessing, is_number

METADATA_KEY = "detreg"
"""The metadata property of the ONNX file that holds the card as JSON."""

FORMAT = 2
"""The format that this version writes.

Format 1, which is read too, had one gray level as `pad_value` and spelled `normalisation`."""

# Keys that a card may lack: the first cards had no format, and those of format 2 at first neither
# outputs nor an operating point. Older versions ignore the keys that they do not know, so each kind
# of file is readable by each kind of reader.
_OPTIONAL_KEYS = ("format", "outputs", "outputs_format", "operating_point")
_EXPORT_AGAIN = "export the model again"

# What a card may claim. The largest datasets have 10,000 classes, and their cards 1 MB.
MAX_CARD_CHARACTERS = 8_000_000
MAX_CLASSES = 20_000
MAX_TEXT_CHARACTERS = 1000

JsonObject = dict[str, Any]
"""An object as json.loads returns it."""


@dataclass(frozen=True)
class Card:
    """What one needs to know about an ONNX file.

    `normalization` (mean, std, channels) is for the reader: the graph applies it. `eid` is the
    MLflow run that made the file, where there is one. `hyperparameters` holds JSON values only, so
    that a card reads back equal to what was written. `outputs` are those of the graph, with the
    meaning that outputs.py gives them in its format `outputs_format`. `operating_point` says how
    `score_threshold` was found, where a split has shown it. A file may claim anything, so types and
    bounds are checked when a card is made: UsageError for values that do not fit.
    """

    template: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    normalization: Mapping[str, object]
    hyperparameters: Mapping[str, object]
    eid: str | None
    dataset_digest: str | None
    score_threshold: float
    detreg_version: str
    outputs: tuple[str, ...] = tuple(output.name for output in REQUIRED_OUTPUTS)
    outputs_format: int = OUTPUTS_FORMAT
    format: int = FORMAT
    operating_point: OperatingPoint | None = None

    def __post_init__(self) -> None:
        problems = self._find_text_problems()
        for name in ("normalization", "hyperparameters"):
            if not isinstance(getattr(self, name), Mapping):
                problems.append(f"{name} must be an object, got {quote(getattr(self, name))}")
        if not is_number(self.score_threshold, 0, 1):
            problems.append(
                f"score_threshold must be a number from 0 to 1, got {quote(self.score_threshold)}"
            )
        if self.operating_point is not None and not problems:
            unknown = self.operating_point.per_class.keys() - set(self.classes)
            if unknown:
                problems.append(f"operating_point has no such classes: {quote(sorted(unknown))}")
        if problems:
            raise UsageError(problems)

    @property
    def has_masks(self) -> bool:
        """Whether the model finds the masks of objects beside their boxes."""
        return MASKS.name in self.outputs

    def _find_text_problems(self) -> list[str]:
        """Return what is wrong with the texts and the lists of texts."""
        problems = []
        for name in ("template", "detreg_version"):
            if not _is_text(getattr(self, name)):
                problems.append(f"{name} must be text, got {quote(getattr(self, name))}")
        for name in ("eid", "dataset_digest"):
            value = getattr(self, name)
            if value is not None and not _is_text(value):
                problems.append(f"{name} must be text or nothing, got {quote(value)}")

        if not _are_texts(self.classes) or not 1 <= len(self.classes) <= MAX_CLASSES:
            problems.append(f"classes must be 1 to {MAX_CLASSES} texts, got {quote(self.classes)}")
        if not _are_texts(self.outputs):
            problems.append(f"outputs must be texts, got {quote(self.outputs)}")
            return problems
        missing = [output.name for output in REQUIRED_OUTPUTS if output.name not in self.outputs]
        if missing:
            problems.append(f"outputs must contain {', '.join(missing)}, got {quote(self.outputs)}")
        return problems

    def to_json(self) -> str:
        """Return the card as JSON; its section `usage` says in words how to use the file."""
        usage = _describe_usage(self.preprocessing, self.outputs)
        return json.dumps({**asdict(self), "usage": usage}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Read what `to_json` wrote; unknown keys are ignored.

        Raises DataError for text that is not a card, that lacks keys, whose values do not fit, or
        that a newer detreg wrote.
        """
        values = _upgrade_format(_parse_object(text))
        _check_keys(values)
        try:
            # JSON has lists where the dataclasses have tuples.
            preprocessing = {**values["preprocessing"]}
            for name in ("image_size", "pad_value"):
                preprocessing[name] = _to_tuple(preprocessing[name])
            values["preprocessing"] = Preprocessing(**preprocessing)

            if values.get("operating_point") is not None:
                values["operating_point"] = OperatingPoint.from_json(values["operating_point"])
            for name in ("classes", "outputs"):
                if name in values:
                    values[name] = _to_tuple(values[name])
            known = {field.name for field in fields(cls)}
            return cls(**{name: value for name, value in values.items() if name in known})
        except (KeyError, TypeError, UsageError) as error:
            reason = "; ".join(str(error).splitlines())[:1000]
            raise DataError(
                f"The card's preprocessing, classes or other values cannot be read ({reason}): "
                f"{_EXPORT_AGAIN}"
            ) from error


def _parse_object(text: str) -> JsonObject:
    """Return the object that a text holds.

    Raises DataError for anything else, and for what JSON or UTF-8 has no form for: NaN and infinite
    numbers, lone halves of surrogate pairs.
    """
    if len(text) > MAX_CARD_CHARACTERS:
        raise DataError(
            f"The card has {len(text)} characters, and must have at most {MAX_CARD_CHARACTERS}: "
            f"{_EXPORT_AGAIN}"
        )
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        # The decoder's message may hold the whole text.
        reason = summarize_error(error)
        raise DataError(f"The card is not JSON ({reason}): {_EXPORT_AGAIN}") from error
    if not isinstance(values, dict):
        raise DataError(
            f"The card is a JSON {type(values).__name__}, not an object: {_EXPORT_AGAIN}"
        )
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _to_tuple(value: object) -> object:
    """Return a JSON list as a tuple; anything else is left for the dataclass to refuse."""
    return tuple(value) if isinstance(value, list) else value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(_is_text(value) for value in values)


def _upgrade_format(values: JsonObject) -> JsonObject:
    """Return the values of a card as this version writes them.

    Raises DataError for a format of a newer version. Other mistakes are found afterwards.
    """
    outputs_format = values.get("outputs_format", OUTPUTS_FORMAT)
    if outputs_format != OUTPUTS_FORMAT:
        raise DataError(
            f"The card has outputs of format {quote(outputs_format)}, this detreg reads "
            f"format {OUTPUTS_FORMAT}: update detreg, or {_EXPORT_AGAIN}"
        )
    card_format = values.get("format", 1)
    if card_format == FORMAT:
        return values
    if card_format != 1:
        raise DataError(
            f"The card has format {quote(card_format)}, this detreg reads formats 1 to "
            f"{FORMAT}: update detreg, or {_EXPORT_AGAIN}"
        )

    # Format 1 to 2: the American spelling, and a pixel in place of one gray level.
    values = {**values, "format": FORMAT}
    if "normalisation" in values:
        values["normalization"] = values.pop("normalisation")
    preprocessing = values.get("preprocessing")
    if isinstance(preprocessing, dict) and isinstance(preprocessing.get("pad_value"), int):
        gray_level = preprocessing["pad_value"]
        values["preprocessing"] = {**preprocessing, "pad_value": [gray_level] * 3}
    return values


def _check_keys(values: JsonObject) -> None:
    required = [field.name for field in fields(Card) if field.name not in _OPTIONAL_KEYS]
    missing = [name for name in required if name not in values]
    if missing:
        raise DataError(f"The card lacks {', '.join(missing)}: {_EXPORT_AGAIN}")


def _describe_usage(preprocessing: Preprocessing, outputs: tuple[str, ...]) -> dict[str, str]:
    """Return the steps before and after the graph in words."""
    return {
        "before": f"{_describe_resizing(preprocessing)}. {_describe_padding(preprocessing)}.",
        "inputs": (
            "images: uint8 (batch, height, width, 3), RGB, resized and padded as above; "
            "the graph normalizes."
        ),
        "outputs": _describe_outputs(outputs),
        "after": (
            "Keep rows with label >= 0 and score >= score_threshold; "
            f"divide x by resized width / original width, y likewise.{_describe_pasting(outputs)}"
        ),
    }


def _describe_pasting(outputs: tuple[str, ...]) -> str:
    if MASKS.name not in outputs:
        return ""
    return (
        " Interpolate the grid of a mask (bilinear, between the centers of its cells) over its "
        "box: pixels of at least 0.5 at their center belong to the object."
    )


def _describe_resizing(preprocessing: Preprocessing) -> str:
    if preprocessing.exact_size:
        width, height = preprocessing.exact_size
        return f"Resize (bilinear) to exactly {width} x {height} pixels"

    longest, shortest = preprocessing.limits
    return (
        "Resize (bilinear) by one factor, the largest with which the longer side is at most "
        f"{longest} and the shorter at most {shortest} pixels; "
        "sides are rounded to the nearest integer"
    )


def _describe_padding(preprocessing: Preprocessing) -> str:
    red, green, blue = preprocessing.pad_value
    pixel = f"Pad right and below with the pixel ({red}, {green}, {blue})"
    if preprocessing.fixed_canvas:
        width, height = preprocessing.fixed_canvas
        return f"{pixel} to {width} x {height} pixels"

    return (
        f"{pixel} until both sides have at least {preprocessing.smallest_input} pixels "
        f"and divide by {preprocessing.pad_divisor}"
    )


def _describe_outputs(names: tuple[str, ...]) -> str:
    descriptions = []
    for output in OUTPUTS:
        if output.name in names:
            axes = ", ".join(map(str, output.axes))
            descriptions.append(f"{output.name}: {output.dtype} ({axes}), {output.meaning}")
    return (
        f"{'; '.join(descriptions)}. The graph decodes and suppresses overlaps. "
        "Rows beyond the detections have score 0 and label -1."
    )
