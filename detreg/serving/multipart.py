"""Reads a multipart/form-data body (RFC 7578), as HTML forms and `curl -F` send it.

The body is cut at its boundary at most as often as a request may have parts, so that what strangers
send costs a copy of the body and no more. Libraries build a list of whatever headers there are.
"""

from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

from detreg.serving.content import COLUMN, Content
from detreg.serving.errors import BadRequest
from detreg.serving.limits import Limits
from detreg.serving.params import NUM_PARAMS, parse_fields

_MAX_HEADER_BYTES = 4096
_MAX_BOUNDARY_CHARACTERS = 200
_EXAMPLE = "send it as curl -F image=@boats.jpg does"


@dataclass(frozen=True)
class _Part:
    """A field of the form; `is_file` tells whether it came with the name of a file."""

    name: str
    data: bytes
    is_file: bool


def read_form(body: bytes, content_type: str, limits: Limits) -> Content:
    """Return the files of a form, and those fields named `image`, as images; the rest as params.

    Raises BadRequest for a body that is not a form.
    """
    cells: list[bytes] = []
    fields: list[tuple[str, str]] = []
    for part in _read_parts(body, content_type, limits.max_images + NUM_PARAMS):
        if part.is_file or part.name == COLUMN:
            cells.append(part.data)
        else:
            fields.append((part.name, part.data.decode("utf-8", "replace")))
    return Content(tuple(cells), parse_fields(fields))


def _read_parts(body: bytes, content_type: str, max_parts: int) -> list[_Part]:
    """Cut a body at its boundary. Raises BadRequest."""
    boundary = _get_boundary(content_type)
    pieces = body.split(b"\r\n--" + boundary, max_parts + 1)

    # The first boundary has no line break before it, the last one ends with --.
    if not pieces[0].startswith(b"--" + boundary):
        raise BadRequest(f"The form does not begin with its boundary: {_EXAMPLE}")
    pieces[0] = pieces[0].removeprefix(b"--" + boundary)
    if len(pieces) > max_parts + 1:
        raise BadRequest(f"The form has more than {max_parts} parts: send fewer images")
    if not pieces[-1].startswith(b"--"):
        raise BadRequest(f"The form does not end with its boundary: {_EXAMPLE}")
    return [_read_part(place, piece) for place, piece in enumerate(pieces[:-1])]


def _get_boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if not boundary or len(boundary) > _MAX_BOUNDARY_CHARACTERS:
        raise BadRequest(
            f"The Content-Type of a form must name its boundary, got {content_type[:100]!r}"
        )
    return boundary.encode("latin-1", "replace")


def _read_part(place: int, piece: bytes) -> _Part:
    """Read the headers of a part, which begin after the line break of the boundary."""
    end = piece.find(b"\r\n\r\n", 0, _MAX_HEADER_BYTES)
    if end < 0:
        raise BadRequest(
            f"part {place} of the form has no end of its headers within {_MAX_HEADER_BYTES} bytes"
        )

    headers = BytesHeaderParser().parsebytes(piece[:end].removeprefix(b"\r\n"))
    name = headers.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise BadRequest(f"part {place} of the form has no name: {_EXAMPLE}")
    is_file = headers.get_param("filename", header="content-disposition") is not None
    return _Part(name, piece[end + 4 :], is_file)
