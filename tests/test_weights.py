"""Where weights come from: folder, download, checkpoint; and what of them is taken."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from detreg.data.dataset import load as load_dataset
from detreg.errors import DataError, NotFoundError, UnreachableError, UsageError
from detreg.params import build
from detreg.templates import find
from detreg.templates.template import ClassLayer, Template
from detreg.training.checkpoints import Checkpoint, save
from detreg.training.weights import download, fill, published, resolve

YOLOX = find("yolox")
CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
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
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.requests.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def with_weights(url: str, sha256: str) -> Template:
    entry = replace(YOLOX.weights["yolox_s"], url=url, sha256=sha256)
    return replace(YOLOX, weights={**YOLOX.weights, "yolox_s": entry})


def test_a_download_is_verified_and_kept(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path))
    template = with_weights(f"{hub}/good.pth", SHA256[:8])
    path = published(template, "yolox_s")
    assert path.read_bytes() == CONTENT and path.name == "yolox_s_coco.pth"
    assert published(template, "yolox_s") == path and Handler.requests == ["/good.pth"]


@pytest.mark.parametrize(
    ("name", "sha256", "error", "words"),
    [
        ("good", "0" * 8, DataError, "has sha256 .* not 00000000: it is not the published file, nothing was kept"),
        ("cut", SHA256, UnreachableError, "cut off after 100 of 7000 bytes"),
        ("missing", SHA256, UnreachableError, "answers 404"),
    ],
)
def test_a_bad_download_is_told_and_leaves_nothing(
    name: str, sha256: str, error: type[Exception], words: str, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path))
    with pytest.raises(error, match=words):
        published(with_weights(f"{hub}/{name}.pth", sha256), "yolox_s")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_hub_that_is_not_there_is_exit_code_69(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"cannot be downloaded .* set DETREG_WEIGHTS") as caught:
        download("http://127.0.0.1:9/x.pth", tmp_path / "x.pth")
    assert caught.value.exit_code == 69


def test_the_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "yolox_nano_coco.pth").write_bytes(b"mine")
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    assert published(YOLOX, "yolox_nano") == tmp_path / "yolox_nano_coco.pth"
    with pytest.raises(UsageError, match=r"nobody published COCO weights of yolox_m .* yolox_m_coco\.pth"):
        published(YOLOX, "yolox_m")


def test_load_from_takes_a_path_or_a_url_with_its_sha256(hub: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    dataset = load_dataset(tiny)
    save(tmp_path / "mine.pth", Checkpoint({"backbone.w": torch.ones(1)}, ("boat",)))
    start = resolve(YOLOX, build(YOLOX.params, {"load_from": str(tmp_path / "mine.pth")}), dataset)
    assert start.weights is not None and start.weights.classes == ("boat",)
    assert start.sentence.endswith("load_from displaces pretrained_weights=coco")
    with pytest.raises(NotFoundError, match="is not a file; it takes coco, a URL, a path"):
        resolve(YOLOX, build(YOLOX.params, {"load_from": "nowhere.pth"}), dataset)
    with pytest.raises(DataError, match="it is not the published file"):
        resolve(YOLOX, build(YOLOX.params, {"load_from": f"{hub}/good.pth#sha256={'1' * 64}"}), dataset)
    with pytest.raises(DataError, match="broken"):  # whole, verified, and no checkpoint
        resolve(YOLOX, build(YOLOX.params, {"load_from": f"{hub}/good.pth#sha256={SHA256}"}), dataset)


class Network(nn.Module):
    """A backbone, and a head of two anchors with one output per class each."""

    def __init__(self, classes: int, width: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.neck = nn.Linear(width, 2)
        self.cls = nn.Linear(2, 2 * classes)


LAYERS = (ClassLayer(r"cls\.(weight|bias)", groups=2),)


def test_classes_keep_their_outputs_by_name() -> None:
    here, there = Network(3), Network(2)
    before = here.cls.bias.detach().clone()
    told = fill(here, Checkpoint(there.state_dict(), ("car", "boat")), ("boat", "bus", "car"), LAYERS)
    mine, theirs = here.cls.bias.detach().view(2, 3), there.cls.bias.detach().view(2, 2)
    assert torch.equal(mine[:, 0], theirs[:, 1]) and torch.equal(mine[:, 2], theirs[:, 0])
    assert torch.equal(mine[:, 1], before.view(2, 3)[:, 1])
    assert torch.equal(here.cls.weight.detach().view(2, 3, 2)[:, 0], there.cls.weight.detach().view(2, 2, 2)[:, 1])
    assert told[0].endswith("classes kept by name: boat, car")


def test_what_does_not_fit_is_listed_and_an_alien_backbone_is_an_error() -> None:
    told = fill(Network(2), Checkpoint(Network(2, width=5).state_dict(), ()), ("a", "b"), LAYERS)
    assert "neck.weight is (2, 5) there and (2, 3) here" in told[1]
    with pytest.raises(DataError, match="nothing of the checkpoint's backbone fits"):
        fill(Network(2), Checkpoint({"backbone.weight": torch.zeros(9)}, ()), ("a", "b"), LAYERS)
