"""From declarations to what is trained: every hyperparameter counts, and the network is the published one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import seed
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from conftest import SMALL
from dense_networks import scale_outputs
from mmdet.registry import DATASETS, MODELS, TASK_UTILS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import nn

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import CLASSES, write_sample
from detreg.errors import DetregError, NotFoundError, UsageError
from detreg.inference.from_template import make_preprocessing
from detreg.options import RunOptions
from detreg.params import Param, build, get_params
from detreg.templates import TEMPLATES, ssd
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training import backbones, checkpoints, heads
from detreg.training.checkpoints import Checkpoint
from detreg.training.compose import compose, compose_network, load_published_config
from detreg.training.initial_weights import (
    PARAMS_FILE,
    InitialWeights,
    choose_initial_weights,
)
from detreg.training.job import Job
from detreg.training.loaders import compose_scoring_loader

assert backbones and heads  # importing them lets MODELS build them by name
YOLOX = TEMPLATES["yolox"]
NANO = {"base_model": "yolox_nano", "pretrained_weights": "none"}
SOURCES = ("pretrained_weights", "pretrain_base_data", "load_from", "continue_from_eid")
"""What decides where weights come from, not what the configuration is."""
EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
COMPOSED = [
    (template, param)
    for template in TEMPLATES.values()
    for param in get_params(template.params).values()
    if param.name not in SOURCES and len(param.choices or ("more", "than one")) > 1
]


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six drawn pictures."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "drawn", images=6, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


def composed(dataset: Dataset, template: Template = YOLOX, **values: Any) -> dict[str, Any]:
    """The configuration of these hyperparameters."""
    return compose(
        template, template.resolve(build(template.params, values)), dataset, RunOptions()
    ).to_dict()


def built(model: dict[str, Any]) -> nn.Module:
    """A network of a model's configuration, with random weights."""
    torch.manual_seed(0)
    network: nn.Module = MODELS.build(ConfigDict(model))
    return network


def yolox(num_classes: int = 3, **values: Any) -> nn.Module:
    """The network that detreg trains."""
    params = build(YOLOX.params, NANO | values)
    return built(compose_network(YOLOX, params, load_published_config(YOLOX, params), num_classes))


def another(template: Template, param: Param) -> Any:
    """A value of the domain that is not the default and means something else."""
    params = template.params()
    if template.name == "msc10" and param.name == "base_model":
        return "resnet50"
    if param.name == "random_resize_lower":
        return tuple(side - 32 for side in params.image_size)
    if param.name == "random_resize_upper":
        return tuple(side + 32 for side in params.image_size)
    if param.type == "bool":
        return not param.default
    if param.type == "choice":
        return next(choice for choice in param.choices or () if choice != param.default)
    if param.type == "numbers":
        return (*param.default[1:], 3.0)
    if param.type == "size":
        return tuple(side + 32 for side in param.default)
    if param.default is None:  # auto
        return 0.0123
    step = param.step or 0.001
    return (
        param.default + step
        if param.default + step <= (param.maximum or 0)
        else param.default - step
    )


# every hyperparameter counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "param"),
    COMPOSED,
    ids=[f"{template.name}-{param.name}" for template, param in COMPOSED],
)
def test_every_hyperparameter_changes_what_is_trained(
    dataset: Dataset, template: Template, param: Param
) -> None:
    # keep_aspect_ratio decides whether max_aspect_ratio means anything
    given: dict[str, Any] = {"keep_aspect_ratio": True} if param.name == "max_aspect_ratio" else {}
    changed = composed(dataset, template, **given, **{param.name: another(template, param)})
    before = composed(dataset, template, **given)
    assert changed != before
    if param.name not in (
        "num_epochs",
        "batch_size",
        "per_item_lrate",
        "min_samples_per_epoch",
    ):  # these are the loop's, not the network's
        parts = ("model", "train_dataloader")
        assert any(changed[part] != before[part] for part in parts)


def test_the_values_are_where_they_belong(dataset: Dataset) -> None:
    values = NANO | {
        "batch_size": 3,
        "num_epochs": 7,
        "per_item_lrate": 0.002,
        "min_samples_per_epoch": 11,
        "image_size": 128,
    }
    config = composed(dataset, **values)
    assert config["train_cfg"]["max_epochs"] == 7
    assert config["train_dataloader"]["batch_size"] == 3
    assert config["train_dataloader"]["sampler"] == {
        "type": "EpochSampler",
        "minimum": 11,
        "batch_size": 3,
        "seed": 0,
    }
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(0.006)
    assert config["model"]["bbox_head"]["num_classes"] == len(CLASSES)
    assert composed(dataset, frozen_stages=3)["model"]["backbone"]["frozen_stages"] == 3


@EACH
def test_every_value_that_all_templates_have_is_where_it_belongs(
    dataset: Dataset, template: Template
) -> None:
    values = {
        "batch_size": 3,
        "num_epochs": 7,
        "per_item_lrate": 0.002,
        "min_samples_per_epoch": 11,
    }
    config = composed(dataset, template, **values)
    assert config["train_cfg"]["max_epochs"] == 7
    assert config["train_dataloader"]["batch_size"] == 3
    assert config["train_dataloader"]["sampler"] == {
        "type": "EpochSampler",
        "minimum": 11,
        "batch_size": 3,
        "seed": 0,
    }
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(0.006)


def test_processes_share_the_batch_and_want_a_gpu_each(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert composed(dataset, batch_size=8)["launcher"] == "none"
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    config = composed(dataset, batch_size=8)
    assert (
        config["launcher"] == "pytorch"
        and config["train_dataloader"]["batch_size"] == config["val_dataloader"]["batch_size"] == 2
    )
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(8 * 0.01 / 64)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        UsageError,
        match="each of the 2 processes needs a GPU of its own, but torch sees 1: start at most 1",
    ):
        composed(dataset, batch_size=8)


def steps(config: dict[str, Any]) -> list[str]:
    """The types of all transforms of training pictures, in order."""
    images = config["train_dataloader"]["dataset"]
    inner = images["dataset"]["pipeline"] if images["type"] == "MultiImageMixDataset" else []
    return [transform["type"] for transform in [*inner, *images["pipeline"]]]


@EACH
def test_random_sizes_are_composed_only_where_they_are_asked_for(
    dataset: Dataset, template: Template
) -> None:
    usual = steps(composed(dataset, template))
    assert (
        "Resize" in usual
        and "PadToCanvas" in usual
        and not {"RandomSize", "RandomMixedSize"} & set(usual)
    )
    config = composed(dataset, template, image_size=128, random_resize_upper=192)
    random = steps(config)
    assert "RandomSize" in random and "Resize" not in random
    pads = [
        step["fixed"]
        for step in config["train_dataloader"]["dataset"]["pipeline"]
        if step["type"] == "PadToCanvas"
    ]
    assert pads == [False]
    assert ("RandomMixedSize" in random) == ("Mosaic" in random)
    plain = [hook["skip"] for hook in config["custom_hooks"] if hook["type"] == "PlainEpochsHook"]
    assert all("RandomMixedSize" in skip for skip in plain)


@EACH
def test_pictures_of_random_sizes_reach_the_network_with_their_boxes(
    dataset: Dataset, template: Template
) -> None:
    """Between the limits, of several sizes, boxes inside; and equal for equal seeds."""
    values = {
        name: value
        for name, value in SMALL[template.name].items()
        if name in get_params(template.params)
    }
    values |= {"image_size": 64, "random_resize_lower": 64, "random_resize_upper": 128}
    images = DATASETS.build(composed(dataset, template, **values)["train_dataloader"]["dataset"])

    def drawn() -> list[Any]:
        seed(3)
        np.random.seed(3)
        return [images[index % len(images)] for index in range(12)]

    pictures = drawn()
    smaller = [min(picture["inputs"].shape[1:]) for picture in pictures]
    assert len(set(smaller)) > 2 and all(64 <= side <= 128 for side in smaller)
    for picture in pictures:
        boxes = picture["data_samples"].gt_instances.bboxes
        boxes = getattr(boxes, "tensor", boxes)
        assert (
            (boxes >= 0).all()
            and (boxes[:, 0::2] <= picture["inputs"].shape[2]).all()
            and (boxes[:, 1::2] <= picture["inputs"].shape[1]).all()
        )
    assert all(
        torch.equal(one["inputs"], other["inputs"])
        for one, other in zip(pictures, drawn(), strict=True)
    )


@pytest.mark.parametrize(("num_epochs", "plain"), [(1, 1), (2, 2), (20, 2), (50, 2), (200, 10)])
def test_the_last_epochs_are_plain(dataset: Dataset, num_epochs: int, plain: int) -> None:
    hooks = {
        hook["type"]: hook
        for hook in composed(dataset, num_epochs=num_epochs, **NANO)["custom_hooks"]
    }
    assert hooks["PlainEpochsHook"]["epochs"] == plain
    assert hooks["PlainEpochsHook"]["skip"] == ["Mosaic", "RandomAffine"]
    assert hooks["EMAHook"]["update_buffers"] is True


def test_pictures_of_different_sizes_are_scored_one_by_one(dataset: Dataset) -> None:
    assert composed(dataset, max_aspect_ratio=1.0, **NANO)["val_dataloader"]["batch_size"] == 8
    assert composed(dataset, max_aspect_ratio=1.5, **NANO)["val_dataloader"]["batch_size"] == 1
    assert composed(dataset, keep_aspect_ratio=False, **NANO)["val_dataloader"]["batch_size"] == 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do it")
def test_mixed_precision_without_a_gpu_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="amp=true needs a GPU"):
        compose(YOLOX, YOLOX.resolve(build(YOLOX.params, NANO)), dataset, RunOptions(amp=True))


@pytest.mark.parametrize(
    ("values", "mixed", "plain"),
    [
        ({"image_size": "64"}, (64, 64), (64, 64)),
        ({"image_size": "64", "max_aspect_ratio": "1.5"}, (96, 96), (64, 96)),
        ({"image_size": "128,96", "keep_aspect_ratio": "false"}, (96, 128), (96, 128)),
        ({"image_size": "96", "keep_aspect_ratio": "false"}, (96, 96), (96, 96)),
    ],
)
def test_training_pictures_have_the_size_that_is_asked_for(
    dataset: Dataset, values: dict[str, str], mixed: tuple[int, int], plain: tuple[int, int]
) -> None:
    config = composed(dataset, **NANO, **values)
    images = DATASETS.build(config["train_dataloader"]["dataset"])
    assert len(images) == dataset.splits["train"].images
    for skip, expected in ((None, mixed), (["Mosaic", "RandomAffine"], plain)):
        images._skip_type_keys = skip
        for index in range(len(images)):
            item = images[index]
            assert tuple(item["inputs"].shape) == (3, *expected)
            boxes = item["data_samples"].gt_instances.bboxes
            boxes = getattr(boxes, "tensor", boxes)
            assert bool((boxes >= 0).all())
            assert bool((boxes[:, 2::2] <= expected[1]).all())
            assert bool((boxes[:, 3::2] <= expected[0]).all())


# the sources of weights ----------------------------------------------------------------------------------------------------------


def state(value: float) -> dict[str, torch.Tensor]:
    """Weights that can be told from others."""
    return {"backbone.weight": torch.full((2,), value)}


def started(dataset: Dataset, **values: Any) -> InitialWeights:
    """Where a training of these hyperparameters starts."""
    return choose_initial_weights(
        YOLOX, build(YOLOX.params, {"base_model": "yolox_nano"} | values), dataset
    )


def number(checkpoint: Checkpoint | None) -> float:
    """Which weights these are."""
    assert checkpoint is not None
    return float(checkpoint.state_dict["backbone.weight"][0])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the published weights, whose number is 1, and other ones, whose number is 2."""
    checkpoints.save_checkpoint(tmp_path / "yolox_nano_coco.pth", Checkpoint(state(1)))
    checkpoints.save_checkpoint(tmp_path / "mine.pth", Checkpoint(state(2), ("boat",)))
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    return tmp_path


def test_pretrained_weights_and_load_from_decide_the_start(dataset: Dataset, files: Path) -> None:
    assert started(dataset, pretrained_weights="none") == InitialWeights(
        "Starts from random weights", backbone_is_filled=False
    )
    assert number(started(dataset, pretrained_weights="coco").weights) == 1
    assert number(started(dataset, pretrained_weights="none", load_from="coco").weights) == 1
    mine = started(dataset, load_from=str(files / "mine.pth"))
    assert number(mine.weights) == 2
    assert "load_from overrides pretrained_weights=coco" in mine.description
    assert (
        "overrides"
        not in started(
            dataset, load_from=str(files / "mine.pth"), pretrained_weights="none"
        ).description
    )


def test_a_file_that_is_not_there_is_named(dataset: Dataset, files: Path) -> None:
    with pytest.raises(NotFoundError, match=r"load_from=.*nothing\.pth is not a file"):
        started(dataset, load_from=str(files / "nothing.pth"))
    with pytest.raises(UsageError, match=r"yolox_m_coco\.pth"):
        started(dataset, base_model="yolox_m")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A tracking store of its own."""
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("trainings", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("trainings")
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def eid(dataset: Dataset, store: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a run that has done 2 of 5 epochs: its best weights have the number 3, its last 4."""
    folder = tmp_path_factory.mktemp("run")
    params = build(YOLOX.params, NANO | {"num_epochs": 5})
    job = Job(
        YOLOX,
        params,
        RunOptions(),
        dataset,
        InitialWeights("Starts from random weights"),
        Config({}),
    )
    checkpoints.save_checkpoint(
        folder / "best.pth", Checkpoint(state(3), dataset.classes, 1, 1, 0.5)
    )
    checkpoints.save_checkpoint(
        folder / "last.pth",
        Checkpoint(state(4), dataset.classes, 2, 1, 0.5, training={"optimizer": {}}),
    )
    with runs.start_run(None, {}) as active:
        active.log_text(json.dumps(job.to_json()), PARAMS_FILE)
        for name in ("best", "last"):
            active.log_file(folder / f"{name}.pth", "checkpoints/0")
        active.set_tags(
            {
                runs.CHECKPOINT: json.dumps(
                    {"epoch": 2, "last": "checkpoints/0/last.pth", "best": "checkpoints/0/best.pth"}
                )
            }
        )
    return active.id


@pytest.mark.parametrize("num_epochs", [5, 9])
def test_the_same_training_resumes(dataset: Dataset, eid: str, num_epochs: int) -> None:
    start = started(
        dataset, pretrained_weights="none", continue_from_eid=eid, num_epochs=num_epochs
    )
    assert (number(start.weights), number(start.resume), start.parent) == (3, 4, eid)
    assert start.resume is not None
    assert start.resume.training == {"optimizer": {}}
    assert f"Resumes run {eid} after epoch 2 of {num_epochs}" in start.description


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_epochs": 2}, "it has done 2 epochs already"),
        ({"num_epochs": 5, "batch_size": 4}, "batch_size was 8, now 4"),
        ({"num_epochs": 5, "image_size": 320}, "image_size was [640], now [320]"),
    ],
)
def test_another_training_starts_anew_from_the_best_weights(
    dataset: Dataset, eid: str, values: dict[str, Any], reason: str
) -> None:
    start = started(dataset, pretrained_weights="none", continue_from_eid=eid, **values)
    assert (number(start.weights), start.resume, start.parent) == (3, None, eid)
    assert reason in start.description


def test_an_eid_overrides_published_weights(dataset: Dataset, eid: str) -> None:
    assert (
        "continue_from_eid overrides pretrained_weights=coco"
        in started(dataset, continue_from_eid=eid, num_epochs=5).description
    )


def test_the_best_weights_of_a_run_can_be_loaded(dataset: Dataset, eid: str) -> None:
    assert number(started(dataset, load_from=f"runs:/{eid}").weights) == 3
    assert number(started(dataset, load_from=f"runs:/{eid}/checkpoints/0/last.pth").weights) == 4


def test_another_dataset_starts_anew(eid: str, tmp_path: Path) -> None:
    write_sample(tmp_path / "drawn", images=3, seed=9, size=(64, 64))
    start = started(
        load_dataset(tmp_path / "drawn", tmp_path),
        pretrained_weights="none",
        continue_from_eid=eid,
        num_epochs=5,
    )
    assert start.resume is None
    assert "its dataset is another one" in start.description


@pytest.mark.parametrize("wrong", ["boats", "0" * 32])
def test_a_wrong_eid_is_refused(dataset: Dataset, store: None, wrong: str) -> None:
    with pytest.raises(NotFoundError, match=wrong):
        started(dataset, pretrained_weights="none", continue_from_eid=wrong)


def test_a_run_without_a_checkpoint_is_refused(dataset: Dataset, store: None) -> None:
    with runs.start_run(None, {}) as active:
        pass
    with pytest.raises(DetregError, match="no checkpoint"):
        started(dataset, pretrained_weights="none", continue_from_eid=active.id)


# the network is the published one ------------------------------------------------------------------------------------------------

PUBLISHED = [
    ("yolox", "yolox_nano"),
    ("yolox", "yolox_s"),
    ("yolof", "resnet50"),
    ("ssd", "ssdlite_mobilenetv2"),
    ("ssd", "ssd300_vgg16"),
    ("ssd", "ssd512_vgg16"),
    ("faster_rcnn", "resnet50"),
    ("faster_rcnn", "resnet101"),
    ("msc10", "resnet50"),
    ("msc10", "resnet101"),
]
EACH_PUBLISHED = pytest.mark.parametrize(
    ("name", "base_model"),
    PUBLISHED,
    ids=[f"{name}-{base_model}" for name, base_model in PUBLISHED],
)


def pair(name: str, base_model: str, device: str) -> tuple[nn.Module, nn.Module]:
    """detreg's network of 80 classes, and MMDetection's own of the same base model."""
    template = TEMPLATES[name]
    published_size = {"ssd300_vgg16": {"image_size": 300}, "ssd512_vgg16": {"image_size": 512}}
    params = build(template.params, {"base_model": base_model} | published_size.get(base_model, {}))
    config = load_published_config(template, params)
    theirs = config.model.to_dict()
    if name == "ssd":
        theirs["bbox_head"]["type"] = "PredictingSSDHead"  # theirs cannot predict
    theirs["backbone"]["init_cfg"] = None  # downloads
    with torch.device(device):
        return built(compose_network(template, params, config, 80)), built(theirs)


@EACH_PUBLISHED
def test_parameters_have_the_published_names_and_shapes(name: str, base_model: str) -> None:
    # SSD's VGG makes its weights in memory, wherever it is told to.
    ours, theirs = pair(name, base_model, "cpu" if "vgg" in base_model else "meta")
    shapes, published = (
        {key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)
    )
    assert shapes == published
    learning, published = (
        {key for key, value in model.named_parameters() if value.requires_grad}
        for model in (ours, theirs)
    )
    assert learning == published or name in (
        "ssd",
        "msc10",
    )  # whose default freezes other stages than the published one


@pytest.mark.parametrize(
    ("name", "base_model"),
    [case for case in PUBLISHED if case[1] not in ("yolox_s", "ssd512_vgg16", "resnet101")],
)
def test_outputs_equal_the_published_networks(name: str, base_model: str) -> None:
    """At the published settings."""
    ours, theirs = pair(name, base_model, "cpu")
    ours.eval()
    theirs.eval()
    side = {"yolox_nano": 96, "ssdlite_mobilenetv2": 320, "ssd300_vgg16": 300}.get(base_model, 128)
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    classes = re.compile(
        r".*(cls_convs\.\d+\.[01]|multi_level_conv_(cls|obj)\.\d|object_pred|rpn_cls|fc_cls|cls_score|retina_cls)"
    )
    outputs: list[Any] = [
        layer
        for name, layer in theirs.named_modules()
        if "head" in name and classes.fullmatch(name)
    ]
    outputs = [layer for layer in outputs if isinstance(layer, (nn.Conv2d, nn.Linear))]
    if name == "ssd":  # whose own start fades to nothing on the way to the last map
        for layer in (layer for layer in theirs.modules() if isinstance(layer, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)
        if hasattr(theirs.neck, "l2_norm"):  # made of whatever lay in memory
            nn.init.constant_(theirs.neck.l2_norm.weight, 20.0)
    with torch.no_grad(), scale_outputs(outputs):  # a fresh network finds nothing
        theirs(
            torch.randn(1, 3, side, side),
            [DetDataSample(metainfo={"img_shape": (side, side)})],
            mode="tensor",
        )
    for layer in outputs:
        layer.weight.data.mul_(4)
    ours.load_state_dict(theirs.state_dict())
    found, maps = [], []
    for model in (ours, theirs):
        sample = DetDataSample(
            metainfo={
                "ori_shape": (side, side),
                "img_shape": (side, side),
                "scale_factor": (1.0, 1.0),
            }
        )
        batch = {"inputs": [pixels.clone()], "data_samples": [sample]}
        with torch.no_grad():
            maps.append(
                model(
                    model.data_preprocessor(batch, False)["inputs"],
                    batch["data_samples"],
                    mode="tensor",
                )
            )
            found.append(model.test_step(batch)[0].pred_instances)
    torch.testing.assert_close(*maps, rtol=0, atol=0)
    assert len(found[0]) > 10
    for part in ("bboxes", "scores", "labels"):
        assert torch.equal(found[0][part], found[1][part])


@pytest.mark.parametrize(
    ("base_model", "side"),
    [("ssdlite_mobilenetv2", 320), ("ssd300_vgg16", 300), ("ssd512_vgg16", 512)],
)
def test_the_default_boxes_are_the_published_ones_at_the_published_size(
    base_model: str, side: int
) -> None:
    params = build(TEMPLATES["ssd"].params, {"base_model": base_model, "image_size": side})
    config = load_published_config(TEMPLATES["ssd"], params).model.to_dict()
    ours = TASK_UTILS.build(ssd.make_anchor_generator(config, params))
    theirs = TASK_UTILS.build(config["bbox_head"]["anchor_generator"])
    assert ours.strides == theirs.strides
    for one, other in zip(ours.base_anchors, theirs.base_anchors, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("base_model", list(TEMPLATES["ssd"].base_models))
@pytest.mark.parametrize("size", ["288", "320", "416", "800", "512,320"])
def test_default_boxes_lie_over_their_cells_at_every_size(base_model: str, size: str) -> None:
    params = build(TEMPLATES["ssd"].params, {"base_model": base_model, "image_size": size})
    width, height = params.image_size * (3 - len(params.image_size))
    detector = built(
        compose_network(
            TEMPLATES["ssd"], params, load_published_config(TEMPLATES["ssd"], params), 3
        )
    ).eval()
    with torch.no_grad():
        maps = detector.extract_feat(torch.zeros(1, 3, height, width))
    for level, (columns, rows) in enumerate((level.shape[-1], level.shape[-2]) for level in maps):
        stride_x, stride_y = detector.bbox_head.prior_generator.strides[level]
        assert abs(columns * stride_x - width) <= max(stride_x / 2, 32) and abs(
            rows * stride_y - height
        ) <= max(stride_y / 2, 32)


SIZES = [(333, 500), (500, 333), (1000, 37), (37, 1000), (64, 64), (480, 640), (1, 7), (321, 319)]


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 320, "max_aspect_ratio": 1.0},
        {"image_size": 320, "max_aspect_ratio": 1.5},
        {"image_size": 160, "max_aspect_ratio": 1.7},
        {"image_size": 96, "max_aspect_ratio": 5.0},
        {"image_size": "416,256", "keep_aspect_ratio": False},
        {"image_size": 224, "keep_aspect_ratio": False},
    ],
    ids=str,
)
def test_preprocessing_gives_mmdetections_own_pixels(
    dataset: Dataset, values: dict[str, Any]
) -> None:
    params = build(YOLOX.params, NANO | values)
    served = make_preprocessing(YOLOX, params)
    transforms = compose_scoring_loader(
        YOLOX, params, dataset.splits["val"].annotations, dataset.classes, 0
    )["dataset"]["pipeline"]
    assert [transform["type"] for transform in transforms] == [
        "LoadImageFromFile",
        "Resize",
        "PadToCanvas",
        "PackDetInputs",
    ]
    resize_and_pad = Compose([TRANSFORMS.build(transform) for transform in transforms[1:3]])
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        prepared = served.prepare(image)
        bgr = np.ascontiguousarray(image[..., ::-1])
        theirs = resize_and_pad(
            {"img": bgr, "img_shape": bgr.shape[:2], "ori_shape": bgr.shape[:2]}
        )
        np.testing.assert_array_equal(prepared.pixels, theirs["img"][..., ::-1])
        assert prepared.scale == pytest.approx(theirs["scale_factor"])
        assert prepared.original_size == (width, height)


# what yolox promises -------------------------------------------------------------------------------------------------------------


def test_yolox_is_free_of_anchors() -> None:
    generator = yolox().bbox_head.prior_generator
    assert generator.num_base_priors == [1, 1, 1]
    assert not hasattr(generator, "base_anchors")
    cells = [(8, 8), (4, 4), (2, 2)]
    priors = generator.grid_priors(cells, device="cpu", with_stride=True)
    assert [len(level) for level in priors] == [rows * columns for rows, columns in cells]
    assert priors[0][:2].tolist() == [
        [0, 0, 8, 8],
        [8, 0, 8, 8],
    ]  # x, y and stride: a point has no size


def test_yolox_assigns_with_simota(dataset: Dataset) -> None:
    assert composed(dataset, **NANO)["model"]["train_cfg"]["assigner"]["type"] == "SimOTAAssigner"
    assert type(yolox().bbox_head.assigner).__name__ == "SimOTAAssigner"


def test_the_head_of_yolox_is_decoupled() -> None:
    head = yolox().bbox_head
    branches = [head.multi_level_cls_convs, head.multi_level_reg_convs]
    assert [len(branch) for branch in branches] == [3, 3]
    separate = [{id(parameter) for parameter in branch.parameters()} for branch in branches]
    assert separate[0]
    assert separate[1]
    assert not separate[0] & separate[1]
    features = [torch.rand(1, 64, side, side) for side in (8, 4, 2)]
    before = head(features)
    for parameter in head.multi_level_cls_convs.parameters():
        parameter.data.add_(0.5)
    after = head(features)
    assert not torch.equal(before[0][0], after[0][0])  # classes
    assert torch.equal(before[1][0], after[1][0])  # boxes
    assert torch.equal(before[2][0], after[2][0])  # objectness


@pytest.mark.parametrize("base_model", list(YOLOX.base_models))
def test_mixup_is_in_the_larger_models_only(dataset: Dataset, base_model: str) -> None:
    config = composed(dataset, base_model=base_model, pretrained_weights="none")
    types = [transform["type"] for transform in config["train_dataloader"]["dataset"]["pipeline"]]
    assert types[:2] == ["Mosaic", "RandomAffine"]
    assert ("MixUp" in types) == (base_model not in ("yolox_nano", "yolox_tiny"))
    hooks = {hook["type"]: hook for hook in config["custom_hooks"]}
    assert set(hooks["PlainEpochsHook"]["skip"]) == {"Mosaic", "RandomAffine", "MixUp"} & set(types)


@pytest.mark.parametrize("stages", range(5))
def test_frozen_stages_get_no_updates(stages: int) -> None:
    model = yolox(frozen_stages=stages, pretrained_weights="coco").train()
    frozen = {"stem", *(f"stage{stage}" for stage in range(1, stages + 1))} if stages else set()
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        assert parameter.requires_grad == (
            part != "backbone" or rest.split(".")[0] not in frozen
        ), name
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == (name.split(".")[0] not in frozen), name


def test_a_step_changes_nothing_frozen() -> None:
    model = yolox(frozen_stages=2, pretrained_weights="coco").train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1
    )
    loss = sum(level.mean() for outputs in model(torch.rand(2, 3, 64, 64)) for level in outputs)
    loss.backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, value in model.backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"stage3", "stage4"}


# what the others promise ---------------------------------------------------------------------------------------------------------


def of(name: str, **values: Any) -> Any:
    """The network that detreg trains, of three classes, without memory."""
    template = TEMPLATES[name]
    given = {key: value for key, value in SMALL[name].items() if key in get_params(template.params)}
    params = build(template.params, given | values)
    with torch.device("meta"):
        return built(
            compose_network(template, params, load_published_config(template, params), 3)
        ).eval()


def test_yolof_has_one_level_and_a_dilated_encoder() -> None:
    detector = of("yolof", image_size=128)
    maps = detector.extract_feat(torch.empty(1, 3, 128, 128, device="meta"))
    assert [tuple(level.shape[-2:]) for level in maps] == [(4, 4)]
    dilations = {
        module.dilation[0] for module in detector.neck.modules() if isinstance(module, nn.Conv2d)
    }
    assert {2, 4, 6, 8} <= dilations
    assert type(detector.bbox_head.assigner).__name__ == "UniformAssigner"
    assert len(detector.bbox_head.prior_generator.base_anchors[0]) == 5
    assert len(of("yolof", anchor_ratios="1,2").bbox_head.prior_generator.base_anchors[0]) == 10


def test_ssd_has_default_boxes_on_several_maps_and_mines_hard_negatives() -> None:
    detector = of("ssd", image_size=320)
    maps = detector.extract_feat(torch.empty(1, 3, 320, 320, device="meta"))
    assert [level.shape[-1] for level in maps] == [20, 10, 5, 3, 2, 1]
    assert detector.bbox_head.prior_generator.num_base_priors == [6] * 6
    assert detector.train_cfg["neg_pos_ratio"] == 3


@pytest.mark.parametrize("positives", [1, 4])
def test_ssd_learns_from_the_three_hardest_negatives_of_each_positive(positives: int) -> None:
    head = built(
        compose_network(
            TEMPLATES["ssd"],
            build(TEMPLATES["ssd"].params, {}),
            load_published_config(TEMPLATES["ssd"], TEMPLATES["ssd"].params()),
            3,
        )
    ).bbox_head
    scores = torch.randn(50, 4, requires_grad=True)
    labels = torch.full((50,), 3)
    labels[:positives] = 1
    ones, boxes = torch.ones(50), torch.zeros(50, 4)
    loss, _ = head.loss_by_feat_single(
        scores, boxes, boxes, labels, ones, boxes, boxes, avg_factor=positives
    )
    loss.sum().backward()
    learning = scores.grad.abs().sum(1) > 0
    assert learning[:positives].all() and int(learning.sum()) == 4 * positives
    losses = torch.nn.functional.cross_entropy(scores.detach(), labels, reduction="none")[
        positives:
    ]
    assert set(losses.topk(3 * positives).indices.tolist()) == set(
        (learning[positives:]).nonzero().flatten().tolist()
    )


def test_faster_rcnn_has_an_rpn_that_shares_its_maps_with_the_second_stage() -> None:
    detector = of("faster_rcnn")
    assert type(detector.rpn_head).__name__ == "RPNHead" and detector.neck.num_outs == 5
    assert not [
        name for name, _ in detector.roi_head.named_parameters() if "conv" in name
    ]  # no convolutions of its own
    assert detector.roi_head.bbox_head.fc_reg.out_features == 4 * 3
    assert (
        of("faster_rcnn", use_perclass_regression=False).roi_head.bbox_head.fc_reg.out_features == 4
    )


@pytest.mark.parametrize("name", ["inception_v4", "inception_v2", "msc10"])
def test_the_retinanets_work_at_several_scales_with_focal_loss_or_ohem(name: str) -> None:
    detector = of(name)
    maps = detector.extract_feat(torch.empty(1, 3, 128, 128, device="meta"))
    assert [level.shape[-1] for level in maps] == [16, 8, 4, 2, 1]
    head = detector.bbox_head
    assert [len(anchors) for anchors in head.prior_generator.base_anchors] == [9] * 5
    assert type(head.loss_cls).__name__ == "FocalLoss" and head.negatives_per_positive is None
    ohem = of(name, use_focal_loss=False).bbox_head
    assert type(ohem.loss_cls).__name__ == "CrossEntropyLoss" and ohem.negatives_per_positive == 3
    assert (
        of(name, use_perclass_regression=True).bbox_head.retina_reg.out_channels
        == 3 * head.retina_reg.out_channels
    )


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "inception_v4", "inception_v2", "msc10"])
def test_anchor_ratios_are_width_to_height(name: str) -> None:
    detector = of(name, anchor_ratios="4")
    head = getattr(detector, "rpn_head", None) or detector.bbox_head
    boxes = torch.cat(
        [
            anchors.cpu() if anchors.device.type != "meta" else anchors
            for anchors in head.prior_generator.base_anchors
        ]
    )
    wide = TASK_UTILS.build(composed_anchors(name, "4")).base_anchors
    assert len(boxes) == sum(map(len, wide))
    for level in wide:
        width, height = level[:, 2] - level[:, 0], level[:, 3] - level[:, 1]
        torch.testing.assert_close(width / height, torch.full_like(width, 4.0))


def composed_anchors(name: str, ratios: str) -> dict[str, Any]:
    """The anchor generator that is composed."""
    template = TEMPLATES[name]
    params = build(template.params, {"anchor_ratios": ratios})
    model = compose_network(template, params, load_published_config(template, params), 3)
    return dict((model.get("rpn_head") or model["bbox_head"])["anchor_generator"])


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "msc10"])
@pytest.mark.parametrize("stages", range(5))
def test_frozen_stages_of_resnets_get_no_updates(name: str, stages: int) -> None:
    """Batch-norm statistics are kept with the weights that fill the backbone, as published, whatever is frozen."""
    extra = {"base_model": "resnet50", "pretrained_weights": "coco"}
    detector = of(name, frozen_stages=stages, **extra)
    detector.train()
    frozen = (
        {"conv1", "bn1", *(f"layer{stage}" for stage in range(1, stages + 1))} if stages else set()
    )
    for key, parameter in detector.backbone.named_parameters():
        if (
            key.split(".")[0] in frozen or name != "yolof" or not stages
        ):  # YOLOF's batch-norms have no gradients where a stage is frozen
            assert parameter.requires_grad == (key.split(".")[0] not in frozen), key
    for key, module in detector.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.training, key


def test_frozen_stages_of_mobilenet_get_no_updates() -> None:
    detector = of("ssd", frozen_stages=3, pretrained_weights="coco")
    detector.train()
    frozen = {"conv1", *(f"layer{number}" for number in range(1, 6))}
    for key, parameter in detector.backbone.named_parameters():
        assert parameter.requires_grad == (key.split(".")[0] not in frozen), key
    for key, module in detector.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == (key.split(".")[0] not in frozen), key
