"""The forms of a request: what each holds, and what is refused, without a server."""

import base64
import json
import tracemalloc
from random import Random

import pytest
from toy_detector import draw_image, encode_image

from detreg.errors import DataError, UsageError
from detreg.serving.answers import _read_cell
from detreg.serving.cors import read_allowed_origins
from detreg.serving.errors import BadRequest
from detreg.serving.limits import Limits
from detreg.serving.params import RequestParams
from detreg.serving.requests import DetectionRequest, read_request

JPEG = encode_image(draw_image(32, 24, (8, 4, 16, 12)), ".jpg")
TEXT = base64.b64encode(JPEG).decode()
LIMITS = Limits(max_images=3)
FORM = "multipart/form-data; boundary=AaB03x"


def make_part(
    data: bytes, name: str | None = "image", file: str | None = "a.jpg", more: str = ""
) -> bytes:
    """Return a part of a form, from its boundary on."""
    disposition = "form-data"
    if name is not None:
        disposition += f'; name="{name}"'
    if file is not None:
        disposition += f'; filename="{file}"'
    headers = f"Content-Disposition: {disposition}\r\n{more}"
    return b"--AaB03x\r\n" + headers.encode() + b"\r\n" + data + b"\r\n"


def make_form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--AaB03x--\r\n"


def read(body: bytes, content_type: str, query: str = "") -> DetectionRequest:
    return read_request(body, content_type, LIMITS, query)


@pytest.mark.parametrize(
    ("query", "has_masks", "form"),
    [
        ("", True, "polygons"),
        ("masks=rle", True, "rle"),
        ("masks=none", True, "none"),
        ("", False, "none"),
        ("masks=none", False, "none"),
    ],
)
def test_masks_are_asked_for_in_a_form(query: str, has_masks: bool, form: str) -> None:
    request = read_request(JPEG, "image/jpeg", LIMITS, query, has_masks=has_masks)
    assert request.params.masks == form


@pytest.mark.parametrize(
    ("query", "has_masks", "problem"),
    [
        ("masks=png", True, "masks must be one of polygons, rle, none, got 'png'"),
        ("masks=1", True, "masks must be one of polygons, rle, none, got 1"),
        ("masks=", False, "masks must be one of polygons, rle, none, got ''"),
        ("masks=rle", False, "masks must be none, got rle: the model has no masks"),
        ("mask=rle", True, "the params are score_threshold, max_detections, masks$"),
        ("mask=rle", False, "the params are score_threshold, max_detections$"),
    ],
)
def test_other_forms_of_masks_are_refused(query: str, has_masks: bool, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        read_request(JPEG, "image/jpeg", LIMITS, query, has_masks=has_masks)


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "Image/WebP; q=1"])
def test_an_image_is_sent_as_it_is(content_type: str) -> None:
    request = read(JPEG, content_type, "score_threshold=0.4&max_detections=7")
    assert request == DetectionRequest((JPEG,), RequestParams(0.4, 7))
    assert read(JPEG, content_type) == DetectionRequest((JPEG,), RequestParams())


def test_a_form_holds_files_and_params() -> None:
    body = make_form(
        make_part(JPEG, more="Content-Type: image/jpeg\r\n"),
        make_part(b"0.5", "score_threshold", None),
        # The bytes of a file may look like the end of a part.
        make_part(b"\r\n--AaB0\r\n\r\n--", "anything", "ü\\\"'.png"),
        make_part(TEXT.encode(), "image", None),
    )
    request = read(body, FORM, "max_detections=2")
    assert request.cells == (JPEG, b"\r\n--AaB0\r\n\r\n--", TEXT.encode())
    assert request.params == RequestParams(0.5, 2)


BAD_FORMS = [
    (b"", FORM, "does not begin with its boundary"),
    (JPEG, FORM, "does not begin with its boundary"),
    (b"--AaB03x", FORM, "does not end with its boundary"),
    (make_form(), FORM, "no rows"),
    (make_part(JPEG), FORM, "does not end with its boundary"),
    (make_form(make_part(JPEG)), "multipart/form-data", "must name its boundary"),
    (make_form(make_part(JPEG)), f"multipart/form-data; boundary={'x' * 300}", "must name its"),
    (make_form(make_part(JPEG)), "multipart/form-data; boundary=é", "does not begin"),
    (make_form(make_part(JPEG, None)), FORM, "part 0 of the form has no name"),
    (make_form(make_part(JPEG, more="x: " + "y" * 5000 + "\r\n")), FORM, "no end of its headers"),
    (make_form(make_part(JPEG), b"--AaB03x\r\nx\r\n"), FORM, "part 1 of the form has no end"),
    (make_form(*[make_part(JPEG)] * 4), FORM, "4 rows: send at most 3"),
    (make_form(*[make_part(b"")] * 7), FORM, "more than 6 parts"),
    (make_form(make_part(JPEG), make_part(b"1", "color", None)), FORM, "unknown params 'color'"),
    (make_form(make_part(JPEG), make_part(b"1", "é", None)), FORM, "unknown params"),
    (
        make_form(make_part(JPEG), *[make_part(b"1", "max_detections", None)] * 2),
        FORM,
        "'max_detections' is given twice",
    ),
    (
        make_form(make_part(JPEG), make_part(b"\xff", "score_threshold", None)),
        FORM,
        "must be a number between 0 and 1, got the text",
    ),
]


@pytest.mark.parametrize(("body", "content_type", "reason"), BAD_FORMS)
def test_a_bad_form_is_refused_in_one_line(body: bytes, content_type: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        read(body, content_type)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("threshold=0.4", "unknown params 'threshold': the params are score_threshold, max_det"),
        ("a&b&c&d&e&f&g", "unknown params 'a', 'b', 'c', 'd', 'e' and 2 more"),
        ("%0a%00=1", r"unknown params '\\n\\x00'"),
        ("x" * 5000, "unknown params 'x{40}':"),
        ("&".join("abcdefghijklmnopqrstuvwxyz"), "more than 20 params"),
        ("score_threshold=", "must be a number between 0 and 1, got the text ''"),
        ("score_threshold=null", "got the text 'null'"),
        ("score_threshold=2", "score_threshold must be between 0 and 1, got 2"),
        ("score_threshold=NaN", "must be between 0 and 1, got nan"),
        ("max_detections=true", "max_detections must be an integer, got the text 'true'"),
        ("max_detections=1.5", "max_detections must be an integer, got 1.5"),
        ("max_detections=" + "9" * 5000, "max_detections must be an integer, got the text"),
        ("max_detections=" + "[" * 39, "must be an integer, got the text"),
        ("max_detections=1&max_detections=2", "'max_detections' is given twice"),
    ],
)
def test_a_bad_query_is_refused_in_one_line(query: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        read(JPEG, "image/jpeg", query)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_form_of_many_parts_costs_a_copy_of_its_body() -> None:
    body = b"--AaB03x" + b"\r\n--AaB03xyz" * 200_000
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="more than 6 parts"):
            read(body, FORM)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(body)


def test_no_damaged_form_fails_in_another_way() -> None:
    random = Random(18)
    good = make_form(make_part(JPEG), make_part(b"0.5", "score_threshold", None))
    wild = [
        b"--AaB03x",
        b"\r\n\r\n",
        b'name="',
        b"\0",
        b"\xff",
        b";",
        b"=?utf-8?q?=00?=",
        b"filename*=",
    ]
    refused = 0
    for _ in range(1000):
        damaged = bytearray(good)
        for _ in range(random.randint(1, 4)):
            start = random.randrange(len(damaged))
            damaged[start : start + random.randint(0, 9)] = random.choice(wild)
        try:
            read(bytes(damaged), FORM)
        except BadRequest as error:
            refused += 1
            assert "\n" not in str(error)
            assert len(str(error)) < 500
    assert 0 < refused < 1000


def test_params_of_json_are_known_in_their_place_and_given_once() -> None:
    def ask(query: str = "", **content: object) -> DetectionRequest:
        body = json.dumps({"inputs": [TEXT], **content}).encode()
        return read(body, "application/json", query)

    assert ask("max_detections=3", params={"score_threshold": None}).params.max_detections == 3
    for wrong, reason in (
        ({"params": {"iou": "rle"}}, "unknown params 'iou': the params are score_threshold"),
        ({"score_threshold": 0.4}, "score_threshold belongs into params"),
        ({"params": {"max_detections": 3}}, "max_detections is given twice"),
    ):
        with pytest.raises(BadRequest, match=reason):
            ask("max_detections=3", **wrong)


@pytest.mark.parametrize(
    "cell",
    [
        TEXT,
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:image/x-what;name=a.b;Base64,{TEXT}",
        f"data:image/jpeg;base64,{TEXT}".encode(),
        f"data:;base64,\n{TEXT[:9]} {TEXT[9:]}",
        JPEG,
    ],
)
def test_a_cell_is_bytes_or_base64_text_or_a_data_url(cell: str | bytes) -> None:
    assert _read_cell(cell) == JPEG


@pytest.mark.parametrize(
    "cell",
    [
        "data:image/jpeg," + TEXT,
        "data:",
        "data:image/jpeg;base64" + "x" * 300,
        "data:;base64,\udfff",
    ],
)
def test_other_data_urls_are_refused(cell: str) -> None:
    with pytest.raises(DataError):
        _read_cell(cell)


def test_origins_are_read_from_the_environment() -> None:
    def get(text: str) -> tuple[str, ...]:
        return read_allowed_origins({"DETREG_SERVE_CORS": text})

    assert read_allowed_origins({}) == get("") == get(" , ") == ()
    assert get("*") == ("*",)
    assert get("https://a.example, http://localhost:3000,http://[::1]:80") == (
        "https://a.example",
        "http://localhost:3000",
        "http://[::1]:80",
    )
    with pytest.raises(UsageError) as caught:
        get("https://a.example/,a.example,https://*.example,https://good.example,null")
    assert len(caught.value.problems) == 4
    assert "must be * or origins such as" in caught.value.problems[0]
