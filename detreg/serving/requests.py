"""Reads a request: the cells of its column `image`, and its params.

Whatever its form, a request becomes a list of cells, each with the bytes of an image file or with
text. They are not decoded here, so that only one image of a request is in memory at a time.
"""

from dataclasses import dataclass
from http import HTTPStatus

from detreg.serving.content import Content
from detreg.serving.errors import BadRequest
from detreg.serving.json_body import read_json
from detreg.serving.limits import Limits
from detreg.serving.multipart import read_form
from detreg.serving.params import RequestParams, parse_query, read_params
from detreg.serving.tables import read_csv, read_parquet

CONTENT_TYPES = {
    "application/json": "MLflow's protocol, with images as base64 text or data: URLs",
    "image/*": "the bytes of one image file",
    "multipart/form-data": "image files, as an HTML form sends them",
    "application/vnd.apache.parquet": "a column image with the bytes of image files",
    "text/csv": "a column image with base64 text",
}
"""What the body of a request may be, by its Content-Type."""


@dataclass(frozen=True)
class DetectionRequest:
    """What a client asks for."""

    cells: tuple[object, ...]
    params: RequestParams


def read_request(
    body: bytes, content_type: str, limits: Limits, query: str = "", *, has_masks: bool = False
) -> DetectionRequest:
    """Read a body and the query of its URL, for a model with or without masks.

    Raises BadRequest for everything that is not a request for detections.
    """
    content = _read_content(body, content_type, limits)
    num_images = len(content.cells)
    if num_images == 0:
        raise BadRequest("the input has no rows: send at least one image")
    if num_images > limits.max_images:
        raise BadRequest(f"the input has {num_images} rows: send at most {limits.max_images}")
    params = read_params(parse_query(query), content.params, has_masks=has_masks)
    return DetectionRequest(content.cells, params)


def _read_content(body: bytes, content_type: str, limits: Limits) -> Content:
    media_type, _, parameters = content_type.lower().partition(";")
    media_type = media_type.strip()
    if media_type.startswith("image/"):
        return Content((body,))
    if media_type == "multipart/form-data":
        return read_form(body, content_type, limits)
    if media_type in CONTENT_TYPES and _is_utf_8(parameters):
        if media_type == "application/json":
            return read_json(body)
        if media_type == "text/csv":
            return read_csv(body, limits)
        return read_parquet(body, limits)
    raise BadRequest(
        f"The Content-Type must be one of {', '.join(CONTENT_TYPES)}, in UTF-8, "
        f"got {content_type[:100]!r}",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    )


def _is_utf_8(parameters: str) -> bool:
    """Tell whether the parameters of a Content-Type name no charset but UTF-8."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') != "utf-8":
            return False
    return True
