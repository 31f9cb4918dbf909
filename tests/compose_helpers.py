"""Configurations and networks that several test files compose."""

from pathlib import Path
from typing import Any

import torch
from conftest import SMALL
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.defaults import PUBLISHED
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training.compose import compose, compose_network, load_published_config

YOLOX = TEMPLATES["yolox"]
NANO: dict[str, Any] = {"base_model": "yolox_nano", "pretrained_weights": "none"}


def load_drawn_images(folder: Path, images: int) -> Dataset:
    """Draw images of 96x64 px into a folder and load them."""
    write_sample(folder / "drawn", images=images, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


def compose_values(
    dataset: Dataset, template: Template = YOLOX, recipe: str = PUBLISHED, **values: object
) -> dict[str, Any]:
    """Compose the configuration of hyperparameters; the others have their defaults."""
    params = template.resolve(build(template.params, values), recipe)
    return compose(template, params, dataset, RunOptions(recipe=recipe)).to_dict()


def compose_model(template: Template, classes: int = 3, **values: object) -> dict[str, Any]:
    """Compose the network's part of the configuration."""
    params = template.resolve(build(template.params, values), PUBLISHED)
    published = load_published_config(template, params)
    return compose_network(template, params, published, classes)


def build_random(model: dict[str, Any]) -> Any:
    """Build the network of a model's configuration with random weights."""
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(model))


def build_without_memory(name: str, **values: object) -> Any:
    """Build the small network of a template, of three classes, with shapes but no numbers."""
    template = TEMPLATES[name]
    names = get_params(template.params)
    small = {key: value for key, value in SMALL[name].items() if key in names}
    with torch.device("meta"):
        return build_random(compose_model(template, **{**small, **values})).eval()
