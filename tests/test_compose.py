"""From declarations to what is trained: every hyperparameter counts, and the network is the published one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import nn

from detreg.data.dataset import Dataset, load
from detreg.data.sample import CLASSES, draw
from detreg.errors import DetregError, NotFoundError, UsageError
from detreg.params import Param, build, declared
from detreg.pipeline import Job
from detreg.templates import TEMPLATES
from detreg.templates.template import CommonParams, RunOptions, Template
from detreg.tracking import runs
from detreg.training import checkpoints
from detreg.training.checkpoints import Checkpoint
from detreg.training.compose import compose, loader, network, preprocessing, published_config
from detreg.training.weights import CHECKPOINT_TAG, PARAMS_FILE, Start, resolve

YOLOX = TEMPLATES["yolox"]
NANO = {"base_model": "yolox_nano", "pretrained_weights": "none"}
SOURCES = ("pretrained_weights", "load_from", "continue_from_eid")
"""What decides where weights come from, not what the configuration is."""
COMPOSED = [
    (template, param) for template in TEMPLATES.values() for param in declared(template.params).values() if param.name not in SOURCES
]


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six drawn pictures."""
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "drawn", pictures=6, size=(96, 64))
    return load(folder / "drawn", folder / "cache")


def composed(dataset: Dataset, template: Template = YOLOX, **values: Any) -> dict[str, Any]:
    """The configuration of these hyperparameters."""
    return compose(template, build(template.params, values), dataset, RunOptions()).to_dict()


def built(model: dict[str, Any]) -> nn.Module:
    """A network of a model's configuration, with random weights."""
    torch.manual_seed(0)
    network: nn.Module = MODELS.build(ConfigDict(model))
    return network


def yolox(num_classes: int = 3, **values: Any) -> nn.Module:
    """The network that detreg trains."""
    params = build(YOLOX.params, NANO | values)
    return built(network(YOLOX, params, published_config(YOLOX, params), num_classes))


def another(template: Template, param: Param) -> Any:
    """A value of the domain that is not the default and means something else."""
    params = template.params()
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
    step = param.step or 0.001
    return param.default + step if param.default + step <= (param.maximum or 0) else param.default - step


# every hyperparameter counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("template", "param"), COMPOSED, ids=[f"{template.name}-{param.name}" for template, param in COMPOSED])
def test_every_hyperparameter_changes_what_is_trained(dataset: Dataset, template: Template, param: Param) -> None:
    # keep_aspect_ratio decides whether max_aspect_ratio means anything
    given = {"keep_aspect_ratio": True} if param.name == "max_aspect_ratio" else {}
    changed = composed(dataset, template, **given, **{param.name: another(template, param)})
    assert changed != composed(dataset, template, **given)


def test_the_values_are_where_they_belong(dataset: Dataset) -> None:
    values = NANO | {"batch_size": 3, "num_epochs": 7, "per_item_lrate": 0.002, "min_samples_per_epoch": 11, "image_size": 128}
    config = composed(dataset, **values)
    assert config["train_cfg"]["max_epochs"] == 7
    assert config["train_dataloader"]["batch_size"] == 3
    assert config["train_dataloader"]["sampler"] == {"type": "EpochSampler", "minimum": 11, "seed": 0}
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(0.006)
    assert config["model"]["bbox_head"]["num_classes"] == len(CLASSES)
    assert composed(dataset, frozen_stages=3)["model"]["backbone"]["frozen_stages"] == 3


def test_random_sizes_are_composed_only_where_they_are_asked_for(dataset: Dataset) -> None:
    assert composed(dataset, **NANO)["model"]["data_preprocessor"]["batch_augments"] is None
    (resize,) = composed(dataset, image_size=128, random_resize_upper=192, **NANO)["model"]["data_preprocessor"]["batch_augments"]
    assert (resize["lower"], resize["upper"], resize["image_size"]) == ((128,), (192,), (128,))


@pytest.mark.parametrize(("num_epochs", "plain"), [(1, 1), (2, 2), (20, 2), (50, 2), (200, 10)])
def test_the_last_epochs_are_plain(dataset: Dataset, num_epochs: int, plain: int) -> None:
    hooks = {hook["type"]: hook for hook in composed(dataset, num_epochs=num_epochs, **NANO)["custom_hooks"]}
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
        compose(YOLOX, build(YOLOX.params, NANO), dataset, RunOptions(amp=True))


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


def started(dataset: Dataset, **values: Any) -> Start:
    """Where a training of these hyperparameters starts."""
    return resolve(YOLOX, build(YOLOX.params, {"base_model": "yolox_nano"} | values), dataset)


def number(checkpoint: Checkpoint | None) -> float:
    """Which weights these are."""
    assert checkpoint is not None
    return float(checkpoint.state_dict["backbone.weight"][0])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the published weights, whose number is 1, and other ones, whose number is 2."""
    checkpoints.save(tmp_path / "yolox_nano_coco.pth", Checkpoint(state(1)))
    checkpoints.save(tmp_path / "mine.pth", Checkpoint(state(2), ("boat",)))
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    return tmp_path


def test_pretrained_weights_and_load_from_decide_the_start(dataset: Dataset, files: Path) -> None:
    assert started(dataset, pretrained_weights="none") == Start("Starts from random weights")
    assert number(started(dataset, pretrained_weights="coco").weights) == 1
    assert number(started(dataset, pretrained_weights="none", load_from="coco").weights) == 1
    mine = started(dataset, load_from=str(files / "mine.pth"))
    assert number(mine.weights) == 2
    assert "load_from displaces pretrained_weights=coco" in mine.sentence
    assert "displaces" not in started(dataset, load_from=str(files / "mine.pth"), pretrained_weights="none").sentence


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
    job = Job(YOLOX, params, RunOptions(), dataset, Start("Starts from random weights"), Config({}))
    checkpoints.save(folder / "best.pth", Checkpoint(state(3), dataset.classes, 1, 1, 0.5))
    checkpoints.save(folder / "last.pth", Checkpoint(state(4), dataset.classes, 2, 1, 0.5, training={"optimizer": {}}))
    with runs.start(None, {}) as active:
        active.log_text(json.dumps(job.facts), PARAMS_FILE)
        for name in ("best", "last"):
            active.log_file(folder / f"{name}.pth", "checkpoints/0")
        active.set_tags({CHECKPOINT_TAG: json.dumps({"epoch": 2, "last": "checkpoints/0/last.pth", "best": "checkpoints/0/best.pth"})})
    return active.id


@pytest.mark.parametrize("num_epochs", [5, 9])
def test_the_same_training_resumes(dataset: Dataset, eid: str, num_epochs: int) -> None:
    start = started(dataset, pretrained_weights="none", continue_from_eid=eid, num_epochs=num_epochs)
    assert (number(start.weights), number(start.resume), start.parent) == (3, 4, eid)
    assert start.resume is not None
    assert start.resume.training == {"optimizer": {}}
    assert f"Resumes run {eid} after epoch 2 of {num_epochs}" in start.sentence


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_epochs": 2}, "it has done 2 epochs already"),
        ({"num_epochs": 5, "batch_size": 4}, "batch_size was 8, now 4"),
        ({"num_epochs": 5, "image_size": 320}, "image_size was [640], now [320]"),
    ],
)
def test_another_training_starts_anew_from_the_best_weights(dataset: Dataset, eid: str, values: dict[str, Any], reason: str) -> None:
    start = started(dataset, pretrained_weights="none", continue_from_eid=eid, **values)
    assert (number(start.weights), start.resume, start.parent) == (3, None, eid)
    assert reason in start.sentence


def test_an_eid_displaces_published_weights(dataset: Dataset, eid: str) -> None:
    assert "continue_from_eid displaces pretrained_weights=coco" in started(dataset, continue_from_eid=eid, num_epochs=5).sentence


def test_the_best_weights_of_a_run_can_be_loaded(dataset: Dataset, eid: str) -> None:
    assert number(started(dataset, load_from=f"runs:/{eid}").weights) == 3
    assert number(started(dataset, load_from=f"runs:/{eid}/checkpoints/0/last.pth").weights) == 4


def test_another_dataset_starts_anew(eid: str, tmp_path: Path) -> None:
    draw(tmp_path / "drawn", pictures=3, seed=9, size=(64, 64))
    start = started(load(tmp_path / "drawn", tmp_path), pretrained_weights="none", continue_from_eid=eid, num_epochs=5)
    assert start.resume is None
    assert "its dataset is another one" in start.sentence


@pytest.mark.parametrize("wrong", ["boats", "0" * 32])
def test_a_wrong_eid_is_refused(dataset: Dataset, store: None, wrong: str) -> None:
    with pytest.raises(NotFoundError, match=wrong):
        started(dataset, pretrained_weights="none", continue_from_eid=wrong)


def test_a_run_without_a_checkpoint_is_refused(dataset: Dataset, store: None) -> None:
    with runs.start(None, {}) as active:
        pass
    with pytest.raises(DetregError, match="no checkpoint"):
        started(dataset, pretrained_weights="none", continue_from_eid=active.id)


# the network is the published one ------------------------------------------------------------------------------------------------


def published(base_model: str) -> nn.Module:
    """MMDetection's own network of 80 classes."""
    return built(published_config(YOLOX, params_of(base_model)).model.to_dict())


def params_of(base_model: str) -> CommonParams:
    """Hyperparameters of a base model."""
    return build(YOLOX.params, {"base_model": base_model})


@pytest.mark.parametrize("base_model", ["yolox_nano", "yolox_s"])
def test_parameters_have_the_published_names_and_shapes(base_model: str) -> None:
    ours, theirs = yolox(80, base_model=base_model).state_dict(), published(base_model).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in theirs.items()}


def test_outputs_equal_the_published_networks() -> None:
    ours, theirs = yolox(80).eval(), published("yolox_nano").eval()
    for module in (*theirs.bbox_head.multi_level_conv_cls, *theirs.bbox_head.multi_level_conv_obj):
        nn.init.normal_(module.weight, std=0.2)
        nn.init.zeros_(module.bias)  # a fresh network finds nothing
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    found = []
    for model in (ours, theirs):
        sample = DetDataSample(metainfo={"ori_shape": (96, 128), "img_shape": (96, 128), "scale_factor": (1.0, 1.0)})
        with torch.no_grad():
            found.append(model.test_step({"inputs": [pixels.clone()], "data_samples": [sample]})[0].pred_instances)
    assert len(found[0]) > 10
    for name in ("bboxes", "scores", "labels"):
        assert torch.equal(found[0][name], found[1][name])


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
def test_preprocessing_gives_mmdetections_own_pixels(dataset: Dataset, values: dict[str, Any]) -> None:
    params = build(YOLOX.params, NANO | values)
    served = preprocessing(YOLOX, params)
    transforms = loader(YOLOX, params, dataset.splits["val"].annotations, dataset.classes, 0)["dataset"]["pipeline"]
    assert [transform["type"] for transform in transforms] == ["LoadImageFromFile", "Resize", "Pad", "PackDetInputs"]
    resize_and_pad = Compose([TRANSFORMS.build(transform) for transform in transforms[1:3]])
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        prepared = served.prepare(image)
        bgr = np.ascontiguousarray(image[..., ::-1])
        theirs = resize_and_pad({"img": bgr, "img_shape": bgr.shape[:2], "ori_shape": bgr.shape[:2]})
        np.testing.assert_array_equal(prepared.pixels, theirs["img"][..., ::-1])
        assert prepared.scale == pytest.approx(theirs["scale_factor"])
        assert prepared.original == (width, height)


# what yolox promises -------------------------------------------------------------------------------------------------------------


def test_yolox_is_free_of_anchors() -> None:
    generator = yolox().bbox_head.prior_generator
    assert generator.num_base_priors == [1, 1, 1]
    assert not hasattr(generator, "base_anchors")
    cells = [(8, 8), (4, 4), (2, 2)]
    priors = generator.grid_priors(cells, device="cpu", with_stride=True)
    assert [len(level) for level in priors] == [rows * columns for rows, columns in cells]
    assert priors[0][:2].tolist() == [[0, 0, 8, 8], [8, 0, 8, 8]]  # x, y and stride: a point has no size


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


@pytest.mark.parametrize("base_model", list(YOLOX.weights))
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
        assert parameter.requires_grad == (part != "backbone" or rest.split(".")[0] not in frozen), name
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == (name.split(".")[0] not in frozen), name


def test_a_step_changes_nothing_frozen() -> None:
    model = yolox(frozen_stages=2, pretrained_weights="coco").train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    loss = sum(level.mean() for outputs in model(torch.rand(2, 3, 64, 64)) for level in outputs)
    loss.backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"stage3", "stage4"}
