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

from detreg.data.dataset import load_dataset
from detreg.errors import DataError, NotFoundError, UnreachableError, UsageError
from detreg.params import build
from detreg.templates import TEMPLATES, find_template
from detreg.templates.base_model import PublishedFile
from detreg.templates.template import ClassLayer, Template
from detreg.training import backbones
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.downloads import download_file, fetch_coco_weights, fetch_imagenet_weights
from detreg.training.initial_weights import choose_initial_weights, load_named_weights
from detreg.training.transfer import transfer_weights

YOLOX = find_template("yolox")
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
    weights = PublishedFile(url, sha256)
    entry = replace(YOLOX.base_models["yolox_s"], coco_weights=weights)
    return replace(YOLOX, base_models={**YOLOX.base_models, "yolox_s": entry})


def test_a_download_is_verified_and_kept(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path))
    template = with_weights(f"{hub}/good.pth", SHA256[:8])
    path = fetch_coco_weights(template, "yolox_s")
    assert path.read_bytes() == CONTENT and path.name == "yolox_yolox_s_coco.pth"
    assert fetch_coco_weights(template, "yolox_s") == path and Handler.requests == ["/good.pth"]


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
def test_a_bad_download_is_told_and_leaves_nothing(
    name: str,
    sha256: str,
    error: type[Exception],
    words: str,
    hub: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path))
    with pytest.raises(error, match=words):
        fetch_coco_weights(with_weights(f"{hub}/{name}.pth", sha256), "yolox_s")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_hub_that_is_not_there_is_exit_code_69(tmp_path: Path) -> None:
    with pytest.raises(
        UnreachableError, match=r"cannot be downloaded .* set DETREG_WEIGHTS"
    ) as caught:
        download_file("http://127.0.0.1:9/x.pth", tmp_path / "x.pth")
    assert caught.value.exit_code == 69


def test_the_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "yolox_nano_coco.pth").write_bytes(b"mine")
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    assert fetch_coco_weights(YOLOX, "yolox_nano") == tmp_path / "yolox_nano_coco.pth"
    with pytest.raises(
        UsageError, match=r"nobody published COCO weights of yolox_m .* yolox_m_coco\.pth"
    ):
        fetch_coco_weights(YOLOX, "yolox_m")


def test_load_from_takes_a_path_or_a_url_with_its_sha256(
    hub: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    dataset = load_dataset(tiny)
    save_checkpoint(tmp_path / "mine.pth", Checkpoint({"backbone.w": torch.ones(1)}, ("boat",)))
    start = choose_initial_weights(
        YOLOX, build(YOLOX.params, {"load_from": str(tmp_path / "mine.pth")}), dataset
    )
    assert start.weights is not None and start.weights.classes == ("boat",)
    assert start.description.endswith("load_from overrides pretrained_weights=coco")
    with pytest.raises(NotFoundError, match="is not a file: it must be coco, a URL, a path"):
        choose_initial_weights(YOLOX, build(YOLOX.params, {"load_from": "nowhere.pth"}), dataset)
    with pytest.raises(DataError, match="it is not the published file"):
        choose_initial_weights(
            YOLOX, build(YOLOX.params, {"load_from": f"{hub}/good.pth#sha256={'1' * 64}"}), dataset
        )
    with pytest.raises(DataError, match="broken"):  # whole, verified, and no checkpoint
        choose_initial_weights(
            YOLOX, build(YOLOX.params, {"load_from": f"{hub}/good.pth#sha256={SHA256}"}), dataset
        )


def test_a_resnet50_of_another_template_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three templates have one, with files that differ: the name with the template's in front comes first."""
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    yolof, faster = find_template("yolof"), find_template("faster_rcnn")
    (tmp_path / "resnet50_coco.pth").write_bytes(b"mine")
    assert (
        fetch_coco_weights(yolof, "resnet50")
        == fetch_coco_weights(faster, "resnet50")
        == tmp_path / "resnet50_coco.pth"
    )
    digest = hashlib.sha256(b"mine").hexdigest()[:8]
    weights = PublishedFile("https://example.com/resnet50.pth", digest)
    resnet50 = replace(faster.base_models["resnet50"], coco_weights=weights)
    known = replace(faster, base_models={"resnet50": resnet50})
    monkeypatch.setitem(TEMPLATES, "faster_rcnn", known)
    assert fetch_coco_weights(known, "resnet50") == tmp_path / "resnet50_coco.pth"
    with pytest.raises(
        DataError,
        match=r"holds the weights of faster_rcnn, not of yolof: name it faster_rcnn_resnet50_coco\.pth",
    ):
        fetch_coco_weights(yolof, "resnet50")
    (tmp_path / "yolof_resnet50_coco.pth").write_bytes(b"own")
    assert fetch_coco_weights(yolof, "resnet50").name == "yolof_resnet50_coco.pth"


@pytest.mark.parametrize(
    ("name", "values", "advice"),
    [
        ("inception_v4", {"pretrained_weights": "coco"}, "take pretrained_weights=imagenet|none"),
        ("inception_v2", {"pretrained_weights": "coco"}, "take pretrained_weights=imagenet|none"),
        (
            "msc10",
            {"pretrained_weights": "coco"},
            "take pretrained_weights=none|imagenet, or base_model=resnet50|resnet101",
        ),
        (
            "msc10",
            {"pretrain_base_data": "mscoco"},
            "take pretrain_base_data=imagenet|none, or base_model=resnet50|resnet101",
        ),
        ("inception_v4", {"load_from": "coco"}, "leave load_from out"),
        (
            "yolox",
            {"base_model": "yolox_m"},
            "take pretrained_weights=none, or base_model=yolox_tiny|yolox_s|yolox_l|yolox_x",
        ),
    ],
)
def test_where_nobody_published_coco_weights_the_advice_is_about_the_parameter_that_asked(
    name: str, values: dict[str, str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETREG_WEIGHTS", raising=False)
    template = find_template(name)
    asked_by = "pretrained_weights" if "base_model" in values else next(iter(values))
    with pytest.raises(UsageError) as caught:
        load_named_weights(template, build(template.params, values))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{asked_by}: nobody published COCO weights of") and problem.endswith(
        advice
    )


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the ImageNet weights that were asked for; a library answers with the name's length."""
    asked: list[str] = []

    def answer(source: str) -> dict[str, torch.Tensor]:
        asked.append(source)
        if "efficientnet" in source:
            raise OSError("no route to the hub")
        return {"backbone.weight": torch.full((2,), float(len(source)))}

    monkeypatch.setattr(backbones, "load_imagenet_weights", answer)
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DETREG_WEIGHTS", raising=False)
    return asked


def test_imagenet_weights_come_from_their_library_once(
    libraries: list[str], tiny: Path, tmp_path: Path
) -> None:
    template = find_template("inception_v2")
    start = choose_initial_weights(template, build(template.params, {}), load_dataset(tiny))
    assert (
        start.description
        == "Starts from the weights published for the backbone of inception_v2 on ImageNet"
    )
    assert start.weights is not None and start.weights.state_dict["backbone.weight"][0] == len(
        "pytorchcv:bninception"
    )
    assert (
        fetch_imagenet_weights(template, "inception_v2")
        == tmp_path / "cache/weights/inception_v2_imagenet.pth"
    )
    assert libraries == ["pytorchcv:bninception"]


def test_imagenet_weights_out_of_reach_are_exit_code_69(
    libraries: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    msc10 = find_template("msc10")
    with pytest.raises(
        UnreachableError,
        match=r"no route to the hub.*detreg weights fetch msc10 --base_model efficientnet_b0",
    ) as caught:
        fetch_imagenet_weights(msc10, "efficientnet_b0")
    assert caught.value.exit_code == 69
    save_checkpoint(
        tmp_path / "efficientnet_b0_imagenet.pth", Checkpoint({"backbone.weight": torch.ones(2)})
    )
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    assert (
        fetch_imagenet_weights(msc10, "efficientnet_b0")
        == tmp_path / "efficientnet_b0_imagenet.pth"
    )
    with pytest.raises(
        UsageError, match="no ImageNet weights for the backbone of yolof's resnet50"
    ):
        fetch_imagenet_weights(find_template("yolof"), "resnet50")


@pytest.mark.parametrize(
    ("values", "sentence", "keys"),
    [
        (
            {},
            "Starts from the weights published for the backbone of resnet50 on ImageNet",
            {"backbone.weight"},
        ),
        ({"pretrain_base_data": "none"}, "Starts from random weights", None),
        (
            {"pretrain_base_data": "mscoco"},
            "Starts from the weights published for the backbone of resnet50 on COCO",
            {"backbone.w"},
        ),
        (
            {"pretrained_weights": "coco"},
            "Starts from the weights published for resnet50 on COCO; pretrained_weights overrides pretrain_base_data=imagenet",
            {"backbone.w", "head.w"},
        ),
        (
            {"load_from": "coco", "pretrained_weights": "imagenet"},
            "Starts from the weights published for resnet50 on COCO; load_from overrides pretrained_weights=imagenet, "
            "pretrain_base_data=imagenet",
            {"backbone.w", "head.w"},
        ),
    ],
)
def test_the_base_models_data_and_the_networks_weights(
    values: dict[str, str],
    sentence: str,
    keys: set[str] | None,
    libraries: list[str],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_checkpoint(
        tmp_path / "msc10_resnet50_coco.pth",
        Checkpoint({"backbone.w": torch.ones(1), "head.w": torch.ones(1)}, ("boat",)),
    )
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    msc10 = find_template("msc10")
    start = choose_initial_weights(
        msc10, build(msc10.params, {"base_model": "resnet50"} | values), load_dataset(tiny)
    )
    assert start.description == sentence
    assert (start.weights and set(start.weights.state_dict)) == keys


class Network(nn.Module):
    """A backbone, and a head of two anchors with one output per class each."""

    def __init__(self, classes: int, width: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.neck = nn.Linear(width, 2)
        self.cls = nn.Linear(2, 2 * classes)


LAYERS = (ClassLayer(r"cls\.(weight|bias)"),)


def test_classes_keep_their_outputs_by_name() -> None:
    here, there = Network(3), Network(2)
    before = here.cls.bias.detach().clone()
    told = transfer_weights(
        here, Checkpoint(there.state_dict(), ("car", "boat")), ("boat", "bus", "car"), LAYERS
    )
    mine, theirs = here.cls.bias.detach().view(2, 3), there.cls.bias.detach().view(2, 2)
    assert torch.equal(mine[:, 0], theirs[:, 1]) and torch.equal(mine[:, 2], theirs[:, 0])
    assert torch.equal(mine[:, 1], before.view(2, 3)[:, 1])
    assert torch.equal(
        here.cls.weight.detach().view(2, 3, 2)[:, 0], there.cls.weight.detach().view(2, 2, 2)[:, 1]
    )
    assert told[0].endswith("classes kept by name: boat, car")


class TwoStage(nn.Module):
    """A backbone, a classifier with a row for the background, and a box regressor for each class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.cls = nn.Linear(2, classes + 1)
        self.reg = nn.Linear(2, 4 * classes)


def test_the_background_and_every_classs_boxes_are_kept_too() -> None:
    here, there = TwoStage(3), TwoStage(2)
    before = here.cls.bias.detach().clone(), here.reg.bias.detach().clone()
    layers = (
        ClassLayer(r"cls\.(weight|bias)", background=1),
        ClassLayer(r"reg\.(weight|bias)", rows=4),
    )
    transfer_weights(
        here, Checkpoint(there.state_dict(), ("car", "boat")), ("boat", "bus", "car"), layers
    )
    assert (
        torch.equal(here.cls.bias.detach()[[0, 2, 3]], there.cls.bias.detach()[[1, 0, 2]])
        and here.cls.bias[1] == before[0][1]
    )
    mine, theirs = here.reg.weight.detach().view(3, 4, 2), there.reg.weight.detach().view(2, 4, 2)
    assert torch.equal(mine[0], theirs[1]) and torch.equal(mine[2], theirs[0])
    assert torch.equal(here.reg.bias.detach()[4:8], before[1][4:8])


def test_one_regressor_for_all_does_not_become_that_of_a_class() -> None:
    here, there = TwoStage(3), TwoStage(2)
    there.reg = nn.Linear(2, 4)
    before = here.reg.weight.detach().clone()
    told = transfer_weights(
        here,
        Checkpoint(there.state_dict(), ("car", "boat")),
        ("boat", "bus", "car"),
        (ClassLayer(r"reg\.(weight|bias)", rows=4),),
    )
    assert torch.equal(here.reg.weight, before) and any(
        "reg.weight is (4, 2) in the checkpoint and (12, 2) here" in sentence for sentence in told
    )


def test_what_does_not_fit_is_listed_and_an_alien_backbone_is_an_error() -> None:
    told = transfer_weights(
        Network(2), Checkpoint(Network(2, width=5).state_dict(), ()), ("a", "b"), LAYERS
    )
    assert "neck.weight is (2, 5) in the checkpoint and (2, 3) here" in told[1]
    with pytest.raises(DataError, match="nothing of the checkpoint's backbone fits"):
        transfer_weights(
            Network(2), Checkpoint({"backbone.weight": torch.zeros(9)}, ()), ("a", "b"), LAYERS
        )
