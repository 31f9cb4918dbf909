"""Files of weights: from the folder DETREG_WEIGHTS, the cache, a server or a library."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from detreg.errors import DataError, NotFoundError, UnreachableError, UsageError
from detreg.templates import TEMPLATES, find_template
from detreg.templates.base_model import MaskModel, PublishedFile
from detreg.templates.template import Template
from detreg.training import backbones
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.downloads import (
    download_file,
    fetch_checkpoint,
    fetch_coco_weights,
    fetch_imagenet_weights,
)

YOLOX = find_template("yolox")
CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with CONTENT, with a part of it, or that there is no such file."""

    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path == "/missing.pth":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100] if self.path == "/cut.pth" else CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a server of weights, and return its address."""
    monkeypatch.setenv("DETREG_ALLOW_PRIVATE_URLS", "1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.requests.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache, and no DETREG_WEIGHTS."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DETREG_CACHE", str(folder))
    monkeypatch.delenv("DETREG_WEIGHTS", raising=False)
    return folder / "weights"


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that DETREG_WEIGHTS names."""
    folder = tmp_path / "weights-folder"
    folder.mkdir()
    monkeypatch.setenv("DETREG_WEIGHTS", str(folder))
    return folder


def publish_at(url: str, sha256: str) -> Template:
    """Return yolox with a published file for yolox_s."""
    published = PublishedFile(url, sha256)
    base_model = replace(YOLOX.base_models["yolox_s"], coco_weights=published)
    return replace(YOLOX, base_models={**YOLOX.base_models, "yolox_s": base_model})


def test_a_download_is_verified_and_happens_once(hub: str, cache: Path) -> None:
    template = publish_at(f"{hub}/good.pth", SHA256[:8])
    path = fetch_coco_weights(template, "yolox_s")
    assert path == cache / "yolox_yolox_s_coco.pth"
    assert path.read_bytes() == CONTENT

    assert fetch_coco_weights(template, "yolox_s") == path
    assert Handler.requests == ["/good.pth"]


def test_a_cached_file_that_has_changed_is_downloaded_again(
    hub: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published files have a sha256; those of a URL without one keep their own."""
    template = publish_at(f"{hub}/good.pth", SHA256[:8])
    published = fetch_coco_weights(template, "yolox_s")
    other = fetch_checkpoint(f"{hub}/good.pth")
    Handler.requests.clear()

    for path in (published, other):
        path.write_bytes(b"changed")
    assert fetch_coco_weights(template, "yolox_s").read_bytes() == CONTENT
    assert fetch_checkpoint(f"{hub}/good.pth").read_bytes() == CONTENT
    assert Handler.requests == ["/good.pth"] * 2
    assert capsys.readouterr().err.count("has changed since it was put into the cache") == 2

    # A file from before the sha256 was kept is taken as it is.
    for kept in cache.glob("*.sha256"):
        kept.unlink()
    assert fetch_checkpoint(f"{hub}/good.pth") == other
    assert len(Handler.requests) == 2


@pytest.mark.parametrize(
    ("name", "sha256", "error", "words"),
    [
        (
            "good",
            "0" * 8,
            DataError,
            "has sha256 .* not 00000000: it is not the published file, nothing was kept",
        ),
        ("cut", SHA256, UnreachableError, "cut off after 100 of 7000 bytes"),
        ("missing", SHA256, UnreachableError, "answers 404"),
    ],
)
def test_a_bad_download_is_an_error_and_leaves_nothing(
    name: str, sha256: str, error: type[Exception], words: str, hub: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        fetch_coco_weights(publish_at(f"{hub}/{name}.pth", sha256), "yolox_s")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_server_that_does_not_answer_is_exit_code_69(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_ALLOW_PRIVATE_URLS", "1")
    with pytest.raises(
        UnreachableError, match=r"cannot be downloaded .* set DETREG_WEIGHTS"
    ) as caught:
        download_file("http://127.0.0.1:9/x.pth", tmp_path / "x.pth")
    assert caught.value.exit_code == 69


def test_the_folder_comes_first(weights_folder: Path) -> None:
    path = weights_folder / "yolox_nano_coco.pth"
    path.write_bytes(b"mine")
    assert fetch_coco_weights(YOLOX, "yolox_nano") == path
    with pytest.raises(
        UsageError, match=r"nobody published COCO weights of yolox_m .* yolox_m_coco\.pth"
    ):
        fetch_coco_weights(YOLOX, "yolox_m")


def test_masks_have_weights_of_their_own(weights_folder: Path, cache: Path, hub: str) -> None:
    faster_rcnn = find_template("faster_rcnn")
    boxes = weights_folder / "resnet50_coco.pth"
    boxes.write_bytes(b"boxes")
    masks = weights_folder / "resnet50_masks_coco.pth"
    masks.write_bytes(b"masks")
    assert fetch_coco_weights(faster_rcnn, "resnet50") == boxes
    assert fetch_coco_weights(faster_rcnn, "resnet50", with_masks=True) == masks
    # Nobody published a RetinaNet with masks.
    assert fetch_coco_weights(find_template("msc10"), "resnet50", with_masks=True) == boxes

    url = f"{hub}/weights.pth"
    published = MaskModel(config="", coco_weights=PublishedFile(url, SHA256))
    base_model = replace(faster_rcnn.base_models["resnet101"], masks=published)
    template = replace(faster_rcnn, base_models={"resnet101": base_model})
    path = fetch_coco_weights(template, "resnet101", with_masks=True)
    assert path == cache / "faster_rcnn_resnet101_masks_coco.pth"
    assert path.read_bytes() == CONTENT


def test_a_checkpoint_is_named_by_a_path_or_a_url_with_its_sha256(hub: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    assert fetch_checkpoint(str(path)) == path
    assert fetch_checkpoint(f"{hub}/good.pth#sha256={SHA256}").read_bytes() == CONTENT

    with pytest.raises(NotFoundError, match="is not a file: it must be coco, a URL, a path"):
        fetch_checkpoint("nowhere.pth")
    with pytest.raises(DataError, match="it is not the published file"):
        fetch_checkpoint(f"{hub}/good.pth#sha256={'1' * 64}")


def test_a_file_of_another_template_with_the_same_base_model_is_refused(
    weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three templates have a resnet50, with files that differ."""
    yolof, faster_rcnn = find_template("yolof"), find_template("faster_rcnn")
    shared_name = weights_folder / "resnet50_coco.pth"
    shared_name.write_bytes(b"mine")
    assert fetch_coco_weights(yolof, "resnet50") == shared_name
    assert fetch_coco_weights(faster_rcnn, "resnet50") == shared_name

    # Now the file is the one that was published for Faster R-CNN.
    digest = hashlib.sha256(b"mine").hexdigest()[:8]
    published = PublishedFile("https://example.org/x.pth", digest)
    base_model = replace(faster_rcnn.base_models["resnet50"], coco_weights=published)
    publisher = replace(faster_rcnn, base_models={"resnet50": base_model})
    monkeypatch.setitem(TEMPLATES, "faster_rcnn", publisher)
    assert fetch_coco_weights(publisher, "resnet50") == shared_name
    advice = r"not of yolof: name it faster_rcnn_resnet50_coco\.pth"
    with pytest.raises(DataError, match=f"holds the weights of faster_rcnn, {advice}"):
        fetch_coco_weights(yolof, "resnet50")

    full_name = weights_folder / "yolof_resnet50_coco.pth"
    full_name.write_bytes(b"own")
    assert fetch_coco_weights(yolof, "resnet50") == full_name


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a library answer with the length of a source's name; return the sources asked for."""
    sources: list[str] = []

    def answer(source: str) -> dict[str, torch.Tensor]:
        sources.append(source)
        if "efficientnet" in source:
            raise OSError("no route to the hub")
        return {"backbone.weight": torch.full((2,), float(len(source)))}

    monkeypatch.setattr(backbones, "load_imagenet_weights", answer)
    return sources


def test_imagenet_weights_come_from_their_library_once(requested: list[str], cache: Path) -> None:
    template = find_template("inception_v2")
    for _ in range(2):
        path = fetch_imagenet_weights(template, "inception_v2")
        assert path == cache / "inception_v2_imagenet.pth"
    assert requested == ["pytorchcv:bninception"]


def test_imagenet_weights_out_of_reach_are_exit_code_69(requested: list[str]) -> None:
    fetch = r"detreg weights fetch msc10 --base_model efficientnet_b0"
    with pytest.raises(UnreachableError, match=rf"no route to the hub.*{fetch}") as caught:
        fetch_imagenet_weights(find_template("msc10"), "efficientnet_b0")
    assert caught.value.exit_code == 69


def test_imagenet_weights_in_the_folder_need_no_library(
    requested: list[str], weights_folder: Path
) -> None:
    path = weights_folder / "efficientnet_b0_imagenet.pth"
    save_checkpoint(path, Checkpoint({"backbone.weight": torch.ones(2)}))
    assert fetch_imagenet_weights(find_template("msc10"), "efficientnet_b0") == path
    assert requested == []


def test_a_base_model_without_imagenet_weights_is_refused() -> None:
    with pytest.raises(
        UsageError, match="no ImageNet weights for the backbone of yolof's resnet50"
    ):
        fetch_imagenet_weights(find_template("yolof"), "resnet50")
