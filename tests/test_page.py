"""The HTML page that every report is written as."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from detreg.report.page import Gallery, Page, render_page, write_page
from detreg.report.section import GalleryItem


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    return path


def test_parts_stand_in_their_order(image: Path) -> None:
    page = Page(
        title="Title",
        subtitle="Subtitle",
        numbers={"mAP": 0.25},
        facts={"run": "abc"},
        plots=[image],
        table=[{"trial": "0", "values": "x"}, {"trial": "1", "values": "y"}],
        galleries=[
            Gallery("Worst", "Why", [GalleryItem(image, "1.png", "2 missed")], {"boat": "#0072B2"})
        ],
    )
    html = render_page(page)
    parts = [
        "<h1>Title</h1><p>Subtitle</p>",
        "<b>0.250</b><span>mAP</span>",
        "<tr><th>run</th><td>abc</td></tr>",
        '<img class="plot" alt="image" src="data:image/png;base64,',
        '<tr><th>trial</th><th>values</th></tr><tr><td class="number">0</td><td>x</td></tr>',
        "<h2>Worst</h2><p>Why</p>",
        '<i style="background:#0072B2"></i>boat',
        "<b>2 missed</b><br>1.png",
    ]
    places = [html.index(part) for part in parts]
    assert places == sorted(places)


def test_empty_parts_are_left_out() -> None:
    html = render_page(Page("Title", "", {}, galleries=[Gallery("Worst", "Why", [])]))
    for tag in ("<table", "<img", "<h2", "<figure"):
        assert tag not in html


def test_a_number_that_is_not_defined_is_a_dash() -> None:
    html = render_page(Page("Title", "", {"mAP, small": None}))
    assert "<b>-</b><span>mAP, small</span>" in html


def test_all_texts_are_escaped(image: Path) -> None:
    text = "<script>&"
    page = Page(
        title=text,
        subtitle=text,
        numbers={text: 1.0},
        facts={text: text},
        table=[{text: text}],
        galleries=[Gallery(text, text, [GalleryItem(image, text, text)], {text: "#000000"})],
    )
    html = render_page(page)
    assert "<script" not in html
    assert html.count("&lt;script&gt;&amp;") == 14


def test_a_page_needs_no_other_file_and_no_network(image: Path, tmp_path: Path) -> None:
    page = Page("Title", "Subtitle", {}, plots=[image])
    path = write_page(page, tmp_path / "index.html")
    html = path.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="([a-z]+:)', html) == ["data:"]
    assert "url(" not in html
