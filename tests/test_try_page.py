"""The page of `detreg show` in Chromium (`make browser`): what a user does, sees and can copy."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import EXECUTABLE, Chromium
from shown_model import ShownModel, show
from toy_detector import CARD, draw_image, encode_image, write_toy_model

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(EXECUTABLE is None, reason="Chromium is not installed"),
]

HOSTILE = "<img src=x onerror=document.title='hacked'>"
CLASSES = ("boat", HOSTILE)


class Shop(BaseHTTPRequestHandler):
    """A site that is not the server's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>shop</title>")


@pytest.fixture(scope="module")
def other_site() -> Iterator[int]:
    """Serve a page on 127.0.0.1, which is localhost too; returns its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, other_site: int) -> Iterator[ShownModel]:
    """Show a model to pages of the other site, by one of its two names."""
    model = write_toy_model(
        tmp_path_factory.mktemp("shown") / "toy.onnx", replace(CARD, classes=CLASSES)
    )
    with show(model, DETREG_SERVE_CORS=f"http://127.0.0.1:{other_site}") as shown:
        yield shown


@pytest.fixture
def page(shown: ShownModel, tmp_path: Path) -> Iterator[Chromium]:
    browser = Chromium(tmp_path / "profile")
    try:
        browser.command("Page.navigate", url=shown.url)
        browser.wait_for("document.title === 'yolox detector'")
        yield browser
    finally:
        browser.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image with a boat of score 1 and a hostile one, by its name, of 0.5."""
    path = tmp_path / "boats.png"
    path.write_bytes(encode_image(draw_image(400, 300, (100, 80, 300, 240))))
    return path


def read_texts(page: Chromium, selector: str) -> list[str]:
    script = f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)"
    return page.run(script)


def set_threshold(page: Chromium, value: float) -> None:
    page.run(
        f"threshold.value = {value}; threshold.dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


def test_an_image_is_dropped_and_the_threshold_moved(page: Chromium, image: Path) -> None:
    page.drop(image)
    page.wait_for("document.querySelectorAll('#found li').length === 2")
    assert read_texts(page, "#boxes text")[0] == "boat 1.00"
    assert read_texts(page, "#kept") == ["2 boxes"]

    # The box lies on the bright pixels of the image.
    outline = page.run(
        "(function () { var box = [...document.querySelectorAll('.outline')].pop();"
        " return ['x', 'y', 'width', 'height'].map(name => Number(box.getAttribute(name))) })()"
    )
    assert outline == pytest.approx([100, 80, 200, 160], abs=8)

    set_threshold(page, 0.8)
    assert read_texts(page, "#found span") == ["boat"]
    assert "?score_threshold=0.8'" in read_texts(page, "#curl")[0]
    page.run("own.click()")
    assert len(read_texts(page, "#found li")) == 2
    assert "score_threshold" not in read_texts(page, "#curl")[0]

    # All of that took one request, nothing was loaded from elsewhere, and nothing complained.
    urls = page.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    origin = page.run("location.origin")
    assert sum("/invocations" in url for url in urls) == 1
    assert [url for url in urls if not url.startswith((origin, f"blob:{origin}", "data:"))] == []
    assert page.complaints == []


def test_masks_are_drawn_in_the_color_of_their_class(
    toy_mask_model: Path, image: Path, tmp_path: Path
) -> None:
    with show(toy_mask_model) as shown:
        browser = Chromium(tmp_path / "profile")
        try:
            browser.command("Page.navigate", url=shown.url)
            browser.wait_for("document.title === 'yolox detector'")
            browser.drop(image)
            browser.wait_for("document.querySelectorAll('#boxes .mask').length === 2")
            assert read_texts(browser, "#about") == ["finds boat, buoy, with their masks"]

            # The boat's ring: its box, and no pixel in the hole.
            box, is_in_hole, is_in_ring = browser.run(
                "(function () { var mask = [...document.querySelectorAll('.mask')].pop();"
                " var box = mask.getBBox();"
                " var has = (x, y) => mask.isPointInFill(new DOMPoint(x, y));"
                " return [[box.x, box.y, box.width, box.height], has(200, 160), has(120, 160)] })()"
            )
            assert box == pytest.approx([100, 80, 200, 160], abs=20)
            assert (is_in_hole, is_in_ring) == (False, True)
            assert browser.complaints == []
        finally:
            browser.close()


def test_the_copied_command_gives_the_same(page: Chromium, image: Path) -> None:
    page.choose("#file", image)
    page.wait_for("document.querySelectorAll('#found li').length === 2")
    set_threshold(page, 0.8)
    page.run("copy.click()")
    page.wait_for("copy.textContent === 'Copied'")

    command = read_texts(page, "#curl")[0]
    output = subprocess.check_output(["sh", "-c", command], cwd=image.parent, timeout=300)
    (row,) = json.loads(output)["predictions"]
    assert row["class_names"] == ["boat"]


def test_names_of_classes_are_texts(page: Chromium, image: Path) -> None:
    page.drop(image)
    page.wait_for("document.querySelectorAll('#found li').length === 2")
    assert read_texts(page, "#found span") == ["boat", HOSTILE]
    assert read_texts(page, "#classes span") == ["boat", HOSTILE]
    assert page.run("document.title") == "yolox detector"
    assert page.run("document.querySelectorAll('img').length") == 1

    page.run("document.querySelectorAll('#classes input')[1].click()")
    assert read_texts(page, "#found span") == ["boat"]


def test_everything_is_reached_with_the_keyboard(page: Chromium, image: Path) -> None:
    page.press("Tab")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "file"

    page.choose("#file", image)
    page.wait_for("document.querySelectorAll('#found li').length === 2")
    reached = []
    for _ in range(10):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.tagName"))
    for id in ("again", "threshold", "own", "curl", "copy", "BUTTON"):
        assert id in reached

    page.run("threshold.focus()")
    page.press("ArrowRight")
    assert read_texts(page, "#shown") == ["0.31"]
    page.run("document.querySelector('#found button').focus()")
    assert page.run("document.querySelectorAll('#boxes .strong').length") == 2


def test_what_is_refused_is_said_and_another_image_can_be_chosen(
    page: Chromium, image: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "<b>.txt"
    wrong.write_bytes(b"hello")
    page.drop(wrong)
    page.wait_for("error.textContent")
    assert read_texts(page, "#error")[0].startswith("<b>.txt: the bytes (5 of them) are not an")
    assert page.run("drop.hidden") is False

    page.choose("#file", image)
    page.wait_for("document.querySelectorAll('#found li').length === 2")
    assert read_texts(page, "#error") == [""]


def test_a_phone_needs_no_sideways_scrolling(page: Chromium, image: Path) -> None:
    page.resize(360, 740)
    page.drop(image, x=100, y=300)
    page.wait_for("document.querySelectorAll('#found li').length === 2")
    assert page.run("document.documentElement.scrollWidth") == 360
    assert page.run("image.clientWidth") > 300


def test_pages_of_the_allowed_origin_alone_can_read_answers(
    page: Chromium, image: Path, other_site: int
) -> None:
    url = page.run("location.href") + "invocations"
    content = base64.b64encode(image.read_bytes()).decode()
    body = f"Uint8Array.from(atob('{content}'), letter => letter.charCodeAt(0))"
    # With this type the browser asks the server before it sends the image.
    headers = "{'Content-Type': 'image/png'}"
    read = (
        f"fetch('{url}', {{method: 'POST', body: {body}, headers: {headers}}})"
        ".then(answer => answer.json())"
        ".then(content => content.predictions[0].class_names[0], error => 'refused')"
    )

    page.command("Page.navigate", url=f"http://127.0.0.1:{other_site}/")
    page.wait_for("document.title === 'shop'")
    assert page.run(read) == "boat"

    page.command("Page.navigate", url=f"http://localhost:{other_site}/")
    page.wait_for("location.hostname === 'localhost' && document.title === 'shop'")
    assert page.run(read) == "refused"
