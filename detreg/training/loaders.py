"""The loaders of training and scoring images, as parts of the MMEngine configuration.

A training image passes through these steps, of which a template decides those in parentheses:

    read, (change one image), resize, (mix several images), (change the result), pad, pack

Each is a transform that MMDetection or detreg (transforms.py, seeding.py) builds by name.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

from mmengine.config import Config

from detreg import torchrun
from detreg.data.dataset import Dataset
from detreg.inference.from_template import make_preprocessing
from detreg.inference.preprocessing import Preprocessing
from detreg.options import RunOptions
from detreg.templates.common_params import CommonParams
from detreg.templates.config import Config as ConfigPart
from detreg.templates.template import Augmentation, Template
from detreg.training.kept_split import KeptSplit, make_kept_split
from detreg.training.loader_processes import choose_num_workers
from detreg.training.transforms import is_below_limit


def compose_train_loader(
    template: Template,
    params: CommonParams,
    dataset: Dataset,
    options: RunOptions,
    published: Config,
) -> ConfigPart:
    """Return the loader of the training split.

    `published` is the configuration of the base model that MMDetection packages. A split with
    fewer images than `min_samples_per_epoch` is repeated by the sampler, with mixing or without.
    """
    augmentation = adapt_augmentation(template, params, published)
    mixing_steps = compose_mixing_steps(template, params, augmentation)

    # The steps of one image by itself, then those of the image that the network gets.
    first_steps = _compose_first_steps(template, params, dataset, options, augmentation)
    batch_size = params.images_per_step // torchrun.get_world_size()  # a remainder has been refused
    num_workers = choose_num_workers(options)
    last_steps = [
        *augmentation.after,
        _compose_training_pad(template, params),
        _compose_training_pack(template, params, num_workers, batch_size),
    ]

    annotations = dataset.splits["train"].annotations
    if mixing_steps:
        # The outer dataset draws further images from the inner one to mix with each image.
        single_images = _compose_coco_dataset(annotations, dataset.classes, first_steps)
        train_dataset = {
            "type": "MixedImages",
            "dataset": single_images,
            "pipeline": [*mixing_steps, *last_steps],
        }
    else:
        steps = [*first_steps, *last_steps]
        train_dataset = _compose_coco_dataset(annotations, dataset.classes, steps)

    return {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "sampler": {
            "type": "EpochSampler",
            "minimum": params.min_samples_per_epoch,
            # Of all processes together.
            "batch_size": params.images_per_step,
            "seed": options.seed,
        },
        "dataset": train_dataset,
    }


def compose_scoring_loader(
    template: Template,
    params: CommonParams,
    annotations: Path,
    classes: tuple[str, ...],
    num_workers: int,
    kept_split: KeptSplit | None = None,
) -> ConfigPart:
    """Return the loader of a canonical COCO file for scoring.

    It loads every image once, in order, resized and padded as when it is served. `kept_split` says
    how the resized images are kept; None keeps none.
    """
    preprocessing = make_preprocessing(template, params)
    # Only images of one size share a batch: to pad one to the size of another would change the
    # result.
    batch_size = (
        params.images_per_step // torchrun.get_world_size() if preprocessing.fixed_canvas else 1
    )
    steps: list[ConfigPart] = [
        _compose_read_resized(preprocessing, kept_split),
        _compose_pad(preprocessing, fixed=True),
        _compose_pack(preprocessing, num_workers, batch_size),
    ]

    return {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "drop_last": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": _compose_coco_dataset(annotations, classes, steps) | {"test_mode": True},
    }


def adapt_augmentation(template: Template, params: CommonParams, published: Config) -> Augmentation:
    """Return what the template makes of the augmentation in the published training pipeline."""
    dataset = published.train_dataloader.dataset
    while "pipeline" not in dataset:  # SSD's is wrapped in a RepeatDataset
        dataset = dataset.dataset

    published_steps = [transform.to_dict() for transform in dataset.pipeline]
    return template.build_augmentation(published_steps, params)


def compose_mixing_steps(
    template: Template, params: CommonParams, augmentation: Augmentation
) -> list[ConfigPart]:
    """Return the steps that combine several images, and give the result a random size if wanted.

    The list is empty where the template mixes nothing.
    """
    if augmentation.mixing and has_random_sizes(params):
        resize = _compose_random_resize("RandomMixedSize", template, params)
        return [*augmentation.mixing, resize]
    return augmentation.mixing


def has_random_sizes(params: CommonParams) -> bool:
    """Return whether training images get random sizes instead of image_size."""
    lower, upper = params.random_sizes
    return lower != params.image_size or upper != params.image_size


def describe_small_images(params: CommonParams, dataset: Dataset) -> str:
    """Return a warning of the training images that keep a size below random_resize_lower.

    It is empty where there are none.
    """
    if not has_random_sizes(params):
        return ""

    lower, _ = params.random_sizes
    images = json.loads(dataset.splits["train"].annotations.read_text())["images"]
    below = sum(is_below_limit(lower, image["width"], image["height"]) for image in images)
    if not below:
        return ""

    limit = ",".join(map(str, lower))
    share = below / len(images)
    return (
        f"{below} of {len(images)} training images ({share:.0%}) are smaller than "
        f"random_resize_lower={limit}: they train at their own size, but are enlarged to "
        "image_size when the model is scored and served; lower random_resize_lower, or image_size, "
        "to bring the two together"
    )


def _compose_first_steps(
    template: Template,
    params: CommonParams,
    dataset: Dataset,
    options: RunOptions,
    augmentation: Augmentation,
) -> list[ConfigPart]:
    """Return the steps of one image by itself.

    What comes before anything random gives the same pixels each time: they can be kept.
    """
    kept_split = make_kept_split(options.cache, dataset, "train")
    seed: ConfigPart = {"type": "SeedImage"}  # first, since it seeds all that follow
    # Boxes as arrays: for the boxes of one image they are faster than MMDetection's tensors.
    load_objects: list[ConfigPart] = [
        {"type": "LoadAnnotations", "with_bbox": True, "box_type": None}
    ]
    if params.has_masks:
        load_objects.append({"type": "LoadMasks"})

    if augmentation.before or has_random_sizes(params):
        cache = None if kept_split is None else kept_split.plan_decoded()
        read: ConfigPart = {"type": "ReadImage", "cache": cache}
        resize = _compose_training_resize(template, params)
        return [seed, read, *load_objects, *augmentation.before, resize]

    read_resized = _compose_read_resized(make_preprocessing(template, params), kept_split)
    return [seed, *load_objects, read_resized]


def _compose_training_pad(template: Template, params: CommonParams) -> ConfigPart:
    preprocessing = make_preprocessing(template, params)
    return _compose_pad(preprocessing, fixed=not has_random_sizes(params))


def _compose_training_pack(
    template: Template, params: CommonParams, num_workers: int, batch_size: int
) -> ConfigPart:
    _, largest_size = params.random_sizes
    largest = replace(make_preprocessing(template, params), image_size=largest_size)
    return _compose_pack(largest, num_workers, batch_size)


def _compose_training_resize(template: Template, params: CommonParams) -> ConfigPart:
    if has_random_sizes(params):
        return _compose_random_resize("RandomSize", template, params)
    return _compose_resize(make_preprocessing(template, params))


def _compose_random_resize(type_: str, template: Template, params: CommonParams) -> ConfigPart:
    lower, upper = params.random_sizes
    return {
        "type": type_,
        "lower": lower,
        "upper": upper,
        "preprocessing": asdict(make_preprocessing(template, params)),
    }


def _compose_resize(preprocessing: Preprocessing) -> ConfigPart:
    return {
        "type": "Resize",
        "scale": preprocessing.exact_size or preprocessing.limits,
        "keep_ratio": preprocessing.keep_aspect_ratio,
    }


def _compose_read_resized(preprocessing: Preprocessing, kept_split: KeptSplit | None) -> ConfigPart:
    cache = None if kept_split is None else kept_split.plan_resized(preprocessing)
    return _compose_resize(preprocessing) | {"type": "ReadResized", "cache": cache}


def _compose_pad(preprocessing: Preprocessing, *, fixed: bool) -> ConfigPart:
    return {"type": "PadToCanvas", "preprocessing": asdict(preprocessing), "fixed": fixed}


def _compose_pack(largest: Preprocessing, num_workers: int, batch_size: int) -> ConfigPart:
    """Return the step that packs an image; `largest` says how large the input becomes."""
    memory = {
        "processes": num_workers,
        "images": batch_size,
        "image_bytes": 3 * math.prod(largest.largest_canvas),
    }
    return {"type": "PackImage", "memory": memory}


def _compose_coco_dataset(
    annotations: Path, classes: tuple[str, ...], steps: list[ConfigPart]
) -> ConfigPart:
    return {
        "type": "CocoDataset",
        "ann_file": str(annotations),
        "data_prefix": {"img": ""},  # file names of the canonical COCO file are absolute
        "metainfo": {"classes": classes},
        "filter_cfg": {"filter_empty_gt": False},
        "pipeline": steps,
    }
