"""The pages of the server: they load nothing, and obey no name that comes from a model."""

import json
import re
from dataclasses import replace

import pytest
from toy_detector import CARD, CARD_WITH_MASKS

from detreg.serving.limits import Limits
from detreg.serving.pages import Page, build_pages

HOSTILE = ("</script><script>alert(1)</script>", "{{limits}}", "a & b", '"><img src=x>')


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    card = replace(CARD, classes=HOSTILE, template="<b>bold</b>")
    return build_pages(card, Limits(), ("https://a.example",))


def test_names_of_a_model_are_escaped(pages: dict[str, Page]) -> None:
    text = pages["/docs"].body.decode()
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "&lt;b&gt;bold" in text
    assert "{{limits}}, a &amp; b, &quot;&gt;&lt;img" in text
    assert "<script" not in text
    assert json.loads(pages["/model.json"].body)["classes"] == list(HOSTILE)


def test_pages_load_nothing_from_elsewhere(pages: dict[str, Page]) -> None:
    assert "script-src 'sha256-" in pages["/"].policy
    assert "innerHTML" not in pages["/"].body.decode()
    for path, page in pages.items():
        assert page.policy.startswith("default-src 'none'")
        text = page.body.decode()
        if path != "/model.json":
            assert re.findall(r"(?:src|href)=\"(?:https?:)?//", text) == []
            assert "/* colors */" not in text


def test_masks_are_described_where_the_model_has_some(pages: dict[str, Page]) -> None:
    with_masks = build_pages(CARD_WITH_MASKS, Limits(), ())
    text = with_masks["/docs"].body.decode()
    assert "<code>masks=rle</code>" in text and "(default polygons)" in text
    assert [*json.loads(with_masks["/model.json"].body)["params"]][2:] == ["masks"]

    assert "masks" not in pages["/docs"].body.decode()
    assert "masks" not in json.loads(pages["/model.json"].body)["params"]


def test_a_server_without_cors_and_with_thousands_of_classes_says_so() -> None:
    card = replace(CARD, classes=tuple(f"class{place}" for place in range(1000)))
    text = build_pages(card, Limits(), ())["/docs"].body.decode()
    assert "class199 and 800 more" in text
    assert "none (DETREG_SERVE_CORS is not set)" in text
