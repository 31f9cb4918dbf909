"""From a template, its hyperparameters and a dataset to the configuration that is trained. Derived numbers are computed here, once."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config

from detreg import torchrun
from detreg.data.dataset import Dataset
from detreg.errors import UsageError
from detreg.inference.card import Card
from detreg.inference.preprocessing import Preprocessing
from detreg.options import RunOptions
from detreg.params import to_plain
from detreg.templates.template import Augmentation, CommonParams, Schedule, Template
from detreg.training.components import is_below
from detreg.version import __version__


def preprocessing(template: Template, params: CommonParams) -> Preprocessing:
    """How an image becomes the network's input: the one description for training, evaluation, export and serving."""
    base_model = template.get_base_model(params)
    return Preprocessing(
        image_size=params.image_size,
        keep_aspect_ratio=params.keep_aspect_ratio,
        max_aspect_ratio=params.max_aspect_ratio,
        pad_value=base_model.input.pad_value,
        pad_divisor=base_model.pad_divisor,
        smallest_input=base_model.smallest_input,
    )


def card(
    template: Template,
    params: CommonParams,
    classes: tuple[str, ...],
    score_threshold: float,
    digest: str | None,
    eid: str | None,
) -> Card:
    """The card of the model that these make."""
    spec = template.get_base_model(params).input
    return Card(
        template=template.name,
        classes=classes,
        preprocessing=preprocessing(template, params),
        normalization={"mean": list(spec.mean), "std": list(spec.std), "channels": spec.channels},
        hyperparameters=to_plain(params),
        eid=eid,
        dataset_digest=digest,
        score_threshold=score_threshold,
        detreg_version=__version__,
    )


def compose(
    template: Template,
    params: CommonParams,
    dataset: Dataset,
    options: RunOptions,
    backbone_is_filled: bool | None = None,
) -> Config:
    """The MMEngine configuration of a whole training, which is also the record of it.

    `backbone_is_filled` tells whether the training began with weights in the backbone; None takes it from the params, which is wrong only
    for a run that resumes another. Raises UsageError where the machine cannot do what is asked (amp without a GPU).
    """
    if backbone_is_filled is None:
        backbone_is_filled = bool(params.sources)
    published = published_config(template, params)
    plain_epochs = _plain_epochs(template.get_base_model(params).recipe.schedule, params.num_epochs)
    custom_hooks: list[dict[str, Any]] = []
    if template.ema_momentum is not None:
        ema = {
            "type": "EMAHook",
            "ema_type": "ExpMomentumEMA",
            "momentum": template.ema_momentum,
            "update_buffers": True,
            "priority": 49,
        }
        custom_hooks.append(ema)
    if mixing := _mixing(template, params, _augment(template, params, published)):
        skip = sorted({transform["type"] for transform in mixing})
        custom_hooks.append(
            {"type": "PlainEpochsHook", "epochs": plain_epochs, "skip": skip, "priority": 48}
        )
    return Config(
        {
            "default_scope": "mmdet",
            "model": network(template, params, published, len(dataset.classes), backbone_is_filled),
            "train_dataloader": _train_loader(template, params, dataset, options, published),
            "val_dataloader": loader(
                template,
                params,
                dataset.splits["val"].annotations,
                dataset.classes,
                options.num_workers,
            ),
            "val_evaluator": {
                "type": "CocoScores",
                "annotations": str(dataset.splits["val"].annotations),
            },
            "train_cfg": {"by_epoch": True, "max_epochs": params.num_epochs, "val_interval": 1},
            "val_cfg": {},
            "optim_wrapper": optimizer_config(template, params, options),
            # What these do by default, detreg does by hooks of its own: see hooks.py.
            "default_hooks": dict.fromkeys(
                ("runtime_info", "timer", "logger", "param_scheduler", "checkpoint")
            )
            | {"sampler_seed": {"type": "DistSamplerSeedHook"}},
            "custom_hooks": custom_hooks,
            "randomness": {"seed": options.seed},
            "log_level": "ERROR",
            "launcher": _launcher(),
            "model_wrapper_cfg": {"type": "SyncedDDP"},
        },
        format_python_code=False,  # it takes seconds, and is asked for several times
    )


def published_config(template: Template, params: CommonParams) -> Config:
    """The configuration that MMDetection packages for the base model."""
    spec = importlib.util.find_spec("mmdet")
    assert spec and spec.origin  # a dependency in pyproject.toml
    path = Path(spec.origin).parent / ".mim" / "configs" / template.get_base_model(params).config
    return Config.fromfile(path)


def network(
    template: Template,
    params: CommonParams,
    published: Config,
    num_classes: int,
    backbone_is_filled: bool = True,
) -> dict[str, Any]:
    """The model's part of the configuration, with the pixels treated as the template's InputSpec says.

    A published recipe that keeps the statistics of the backbone's batch-norms (`norm_eval`) means those of trained weights: they are
    kept where such weights fill the backbone, and learned where it starts from random ones.
    """
    model = template.build_model(published.model.to_dict(), params, num_classes)
    if model["backbone"].get("norm_eval"):
        model["backbone"]["norm_eval"] = backbone_is_filled or params.frozen_stages > 0
    spec = template.get_base_model(params).input
    model["data_preprocessor"] = {
        "type": "DetDataPreprocessor",
        "mean": list(spec.mean) if spec.is_normalized else None,
        "std": list(spec.std) if spec.is_normalized else None,
        "bgr_to_rgb": spec.channels == "rgb",
        "pad_size_divisor": preprocessing(template, params).pad_divisor,
        # Images of random sizes are padded to the largest of their batch after they are normalized.
        "pad_value": spec.normalized_pad_value,
    }
    return model


def _plain_epochs(schedule: Schedule, num_epochs: int) -> int:
    """The last epochs without mixing, scaled from the published schedule: two at least.

    Mixed pictures pay off over many epochs only: two epochs of yolox_nano on BCCD give a val mAP of 0.44 without, 0.36 with one mixed.
    """
    scaled = round(num_epochs * schedule.plain_epochs / schedule.epochs)
    return min(max(2, scaled), num_epochs)


def _augment(template: Template, params: CommonParams, published: Config) -> Augmentation:
    images = published.train_dataloader.dataset
    while "pipeline" not in images:  # SSD's is wrapped, to be taken several times
        images = images.dataset
    return template.build_augmentation(
        [transform.to_dict() for transform in images.pipeline], params
    )


def _mixing(
    template: Template, params: CommonParams, augment: Augmentation
) -> list[dict[str, Any]]:
    """What combines pictures, and then gives the result a random size where that is wanted."""
    if not (augment.mixing and _random(params)):
        return augment.mixing
    return [*augment.mixing, _random_size("RandomMixedSize", template, params)]


def _random(params: CommonParams) -> bool:
    return any(limit != params.image_size for limit in params.random_sizes)


def _random_size(name: str, template: Template, params: CommonParams) -> dict[str, Any]:
    lower, upper = params.random_sizes
    return {
        "type": name,
        "lower": lower,
        "upper": upper,
        "preprocessing": asdict(preprocessing(template, params)),
    }


def _resize(prep: Preprocessing) -> dict[str, Any]:
    return {
        "type": "Resize",
        "scale": prep.exact_size or prep.limits,
        "keep_ratio": prep.keep_aspect_ratio,
    }


def _pad(prep: Preprocessing, fixed: bool = True) -> dict[str, Any]:
    return {"type": "PadToCanvas", "preprocessing": asdict(prep), "fixed": fixed}


def _images(
    annotations: Path, classes: tuple[str, ...], pipeline: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "type": "CocoDataset",
        "ann_file": str(annotations),
        "data_prefix": {"img": ""},
        "metainfo": {"classes": classes},
        "filter_cfg": {"filter_empty_gt": False},
        "pipeline": pipeline,
    }


def _train_loader(
    template: Template,
    params: CommonParams,
    dataset: Dataset,
    options: RunOptions,
    published: Config,
) -> dict[str, Any]:
    prep = preprocessing(template, params)
    augment = _augment(template, params, published)
    mixing = _mixing(template, params, augment)
    load: list[dict[str, Any]] = [
        {"type": "SeedPicture"},
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        *augment.before,
        _random_size("RandomSize", template, params) if _random(params) else _resize(prep),
    ]
    # keep_empty=False keeps images that have no box left, as pictures of nothing; True would draw others in their place.
    finish: list[dict[str, Any]] = [
        _pad(prep, fixed=not _random(params)),
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1, 1), "keep_empty": False},
        {"type": "PackDetInputs"},
    ]
    images = _images(
        dataset.splits["train"].annotations,
        dataset.classes,
        load if mixing else [*load, *augment.after, *finish],
    )
    if mixing:
        images = {
            "type": "MultiImageMixDataset",
            "dataset": images,
            "pipeline": [*mixing, *augment.after, *finish],
        }
    return {
        "batch_size": params.batch_size // torchrun.get_world_size(),
        "num_workers": options.num_workers,
        # Workers that persist would keep on mixing pictures in the plain epochs.
        "persistent_workers": False,
        "sampler": {
            "type": "EpochSampler",
            "minimum": params.min_samples_per_epoch,
            "batch_size": params.batch_size,
            "seed": options.seed,
        },
        "dataset": images,
    }


def loader(
    template: Template,
    params: CommonParams,
    annotations: Path,
    classes: tuple[str, ...],
    num_workers: int,
) -> dict[str, Any]:
    """The loader of a canonical COCO file for scoring: every image once, in order, resized and padded as it is served."""
    prep = preprocessing(template, params)
    pipeline = [
        {"type": "LoadImageFromFile"},
        _resize(prep),
        _pad(prep),
        {
            "type": "PackDetInputs",
            "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        },
    ]
    return {
        # Images of one size only share a batch: padding to a batch mate's size would change the result.
        "batch_size": params.batch_size // torchrun.get_world_size() if prep.fixed_canvas else 1,
        "num_workers": num_workers,
        "drop_last": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": _images(annotations, classes, pipeline) | {"test_mode": True},
    }


def small_image_warning(params: CommonParams, dataset: Dataset) -> str:
    """A sentence on the training images that keep a size below random_resize_lower, or nothing where there are none."""
    if not _random(params):
        return ""
    lower, _ = params.random_sizes
    images = json.loads(dataset.splits["train"].annotations.read_text())["images"]
    below = sum(is_below(lower, image["width"], image["height"]) for image in images)
    if not below:
        return ""
    limit = ",".join(map(str, lower))
    return (
        f"{below} of {len(images)} training images ({below / len(images):.0%}) are smaller than random_resize_lower={limit}: "
        "they train at their own size, but are enlarged to image_size when the model is scored and served; "
        "a lower random_resize_lower, or image_size, brings the two together"
    )


def _launcher() -> str:
    """Whether MMEngine trains in several processes; its word for torchrun is pytorch."""
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < torchrun.get_local_world_size():
        raise UsageError(
            f"{torchrun.get_local_world_size()} processes want a GPU each, and torch sees {gpus}: start no more than that"
        )
    return "pytorch" if torchrun.get_world_size() > 1 else "none"


def optimizer_config(
    template: Template, params: CommonParams, options: RunOptions
) -> dict[str, Any]:
    wrapper = dict(template.get_base_model(params).recipe.optimizer)
    wrapper["optimizer"] = wrapper["optimizer"] | {"lr": params.learning_rate}
    if options.amp:
        import torch

        if not torch.cuda.is_available():
            raise UsageError("amp=true needs a GPU, and torch sees none: leave it out")
        return {"type": "AmpOptimWrapper", "loss_scale": "dynamic", **wrapper}
    return {"type": "OptimWrapper", **wrapper}
