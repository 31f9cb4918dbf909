"""The params of a request, from its body and from the query of its URL."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import parse_qsl

from detreg.defaults import MAX_DETECTIONS
from detreg.errors import UsageError
from detreg.inference.detector import check_limits
from detreg.inference.masks import MaskForm, choose_mask_form
from detreg.serving.content import describe
from detreg.serving.errors import BadRequest

PARAMS = {
    "score_threshold": "lowest score that is reported, from 0 to 1",
    "max_detections": "most detections of one image",
}
"""What a request may set, by name."""

MASKS_PARAM = "masks"
_MASKS_MEANING = (
    "how masks are written: as polygons, as rle (COCO's run-length code), or not at all (none)"
)
NUM_PARAMS = len(PARAMS) + 1

_MAX_NUMBER_CHARACTERS = 40
_MAX_QUERY_FIELDS = 20


@dataclass(frozen=True)
class RequestParams:
    """What a client asks for. `score_threshold` None is the model's own."""

    score_threshold: float | None = None
    max_detections: int = MAX_DETECTIONS
    masks: MaskForm = "none"


def describe_params(has_masks: bool) -> dict[str, str]:
    """Return what a request may set, by name.

    A model without masks takes `masks=none`, too, so that a client need not know which it asks.
    """
    return PARAMS | {MASKS_PARAM: _MASKS_MEANING} if has_masks else PARAMS


def read_params(*sources: Mapping[str, object], has_masks: bool = False) -> RequestParams:
    """Return the params of all sources together, for a model with or without masks.

    Raises BadRequest for names that are unknown or given twice, and for values out of range.
    """
    params: dict[str, object] = {}
    for source in sources:
        _refuse_unknown(source, has_masks)
        for name, value in source.items():
            if name in params:
                raise BadRequest(f"{name} is given twice: in the URL and in the body")
            params[name] = value

    threshold = _read_threshold(params.get("score_threshold"))
    max_detections = _read_max_detections(params.get("max_detections", MAX_DETECTIONS))
    try:
        check_limits(threshold or 0, max_detections)
        masks = choose_mask_form(params.get(MASKS_PARAM), has_masks)
    except UsageError as error:
        raise BadRequest("; ".join(error.problems)) from error
    return RequestParams(threshold, max_detections, masks)


def _read_threshold(value: object) -> float | None:
    # A threshold of null is the model's own: MLflow's signature has always let it pass.
    if value is None or _is_number(value):
        return value
    raise BadRequest(f"score_threshold must be a number between 0 and 1, got {describe(value)}")


def _read_max_detections(value: object) -> int:
    if _is_number(value) and isinstance(value, int):
        return value
    raise BadRequest(f"max_detections must be an integer, got {describe(value)}")


def parse_query(query: str) -> dict[str, object]:
    """Return the params in the query of a URL. Raises BadRequest where one is given twice."""
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError as error:
        raise BadRequest(f"the URL has more than {_MAX_QUERY_FIELDS} params") from error
    return parse_fields(fields)


def parse_fields(fields: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return params that came as text; numbers become numbers, everything else stays text.

    Raises BadRequest where one is given twice.
    """
    params: dict[str, object] = {}
    for name, text in fields:
        if name in params:
            raise BadRequest(f"{describe(name)} is given twice as a param")
        params[name] = _parse_number(text)
    return params


def _parse_number(text: str) -> object:
    """Return the number that a text is in JSON, else the text."""
    if len(text) > _MAX_NUMBER_CHARACTERS:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if _is_number(value) else text


def _refuse_unknown(params: Mapping[str, object], has_masks: bool) -> None:
    unknown = [name for name in params if name not in PARAMS and name != MASKS_PARAM]
    if unknown:
        shown = ", ".join(repr(name[:40]) for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        known = ", ".join(describe_params(has_masks))
        raise BadRequest(f"unknown params {shown}{more}: the params are {known}")


def _is_number(value: object) -> TypeGuard[int | float]:
    # In Python true and false are integers.
    return isinstance(value, int | float) and not isinstance(value, bool)
