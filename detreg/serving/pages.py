"""What the server shows of itself: a page to try the model on, its description, the model's facts.

The pages are files of this package. They load nothing from anywhere: a browser that obeys their
Content-Security-Policy runs the one script that is in them, and reaches this server only.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from detreg.defaults import MAX_DETECTIONS, MAX_PIXELS
from detreg.inference.card import Card
from detreg.inference.masks import choose_mask_form
from detreg.report.theme import CLASS_COLORS, GRID, INK, MUTED_TEXT, RIGHT, WRONG
from detreg.serving.cors import ORIGINS_VARIABLE
from detreg.serving.limits import Limits
from detreg.serving.params import MASKS_PARAM, describe_params
from detreg.serving.requests import CONTENT_TYPES

_FOLDER = Path(__file__).parent
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_COLORS = "/* colors */"
_MAX_CLASSES_SHOWN = 200
_MEGAPIXEL = 1_000_000
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Page:
    """What a path answers: a body and its Content-Type. `policy` is for the browser."""

    body: bytes
    content_type: str
    policy: str


def build_pages(card: Card, limits: Limits, origins: Sequence[str]) -> dict[str, Page]:
    """Return the pages of the server by their paths."""
    facts = json.dumps(_describe_model(card, limits)).encode()
    return {
        "/": _make_page(_read_file("try.html")),
        "/docs": _make_page(_render_docs(card, limits, origins)),
        "/model.json": Page(facts, "application/json", "default-src 'none'"),
    }


def _read_file(name: str) -> str:
    """Return an HTML file of this package, with the colors that all reports have."""
    colors = {"ink": INK, "muted": MUTED_TEXT, "grid": GRID, "right": RIGHT, "wrong": WRONG}
    variables = "; ".join(f"--{name}: {color}" for name, color in colors.items())
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return text.replace(_COLORS, f":root {{ {variables} }}")


def _make_page(html: str) -> Page:
    policy = [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    for script in _SCRIPT.findall(html):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy.append(f"script-src 'sha256-{digest}'")
    return Page(html.encode(), "text/html; charset=utf-8", "; ".join(policy))


def _describe_model(card: Card, limits: Limits) -> dict[str, object]:
    """Return what a client has to know of the model, and what the page shows of it."""
    return {
        "template": card.template,
        "classes": list(card.classes),
        "colors": list(CLASS_COLORS),
        "score_threshold": card.score_threshold,
        "max_detections": MAX_DETECTIONS,
        "params": describe_params(card.has_masks),
        "content_types": list(CONTENT_TYPES),
        "limits": asdict(limits),
        "eid": card.eid,
        "dataset_digest": card.dataset_digest,
        "detreg_version": card.detreg_version,
    }


def _describe_limits(limits: Limits) -> dict[str, int]:
    return {
        "MiB of a body": limits.max_body_bytes // _MEBIBYTE,
        "images of a request": limits.max_images,
        "megapixels of an image": MAX_PIXELS // _MEGAPIXEL,
        "megapixels of a request": limits.max_pixels // _MEGAPIXEL,
        "requests that run or wait": limits.max_requests,
    }


def _render_docs(card: Card, limits: Limits, origins: Sequence[str]) -> str:
    """Return the description of the server. All that comes from the model is escaped."""
    defaults = {
        "score_threshold": f"{card.score_threshold:g}",
        "max_detections": MAX_DETECTIONS,
        MASKS_PARAM: choose_mask_form(None, card.has_masks),
    }
    params = {}
    for name, meaning in describe_params(card.has_masks).items():
        params[name] = f"{meaning} (default {defaults[name]})"
    classes = ", ".join(card.classes[:_MAX_CLASSES_SHOWN])
    if len(card.classes) > _MAX_CLASSES_SHOWN:
        classes += f" and {len(card.classes) - _MAX_CLASSES_SHOWN} more: see model.json"
    allowed = ", ".join(origins) or f"none ({ORIGINS_VARIABLE} is not set)"

    parts = {
        "template": escape(card.template),
        "classes": escape(classes),
        "origins": escape(allowed),
        "content_types": _render_rows(CONTENT_TYPES),
        "params": _render_rows(params),
        "masks": _read_file("docs_masks.html") if card.has_masks else "",
        "limits": _render_rows(_describe_limits(limits)),
    }
    # In one pass, so that a class whose name looks like a placeholder is not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read_file("docs.html"))


def _render_rows(rows: Mapping[str, object]) -> str:
    rendered = ""
    for name, meaning in rows.items():
        rendered += f"<tr><th>{escape(name)}</th><td>{escape(str(meaning))}</td></tr>\n"
    return rendered
