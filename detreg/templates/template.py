"""What a template is: a ready-made detector with declared hyperparameters.

This folder imports the standard library only, so that listing the templates is instant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, TypeVar

from detreg.defaults import FEW_IMAGES, PUBLISHED
from detreg.params import ParamJson, get_params
from detreg.templates.base_model import BaseModel
from detreg.templates.common_params import CommonParams
from detreg.templates.config import Config
from detreg.templates.recipe import Recipe

P = TypeVar("P", bound=CommonParams)

DecoderName = Literal["yolox", "one_stage", "two_stage"]
"""The kinds of head that detreg/export/decode/ can export, one file for each."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images beside resizing, as transforms that MMEngine builds."""

    before: list[Config] = field(default_factory=list)
    """Before resizing."""
    mixing: list[Config] = field(default_factory=list)
    """After resizing: what combines several images; left out in the plain epochs."""
    after: list[Config] = field(default_factory=list)
    """After mixing, in all epochs."""


@dataclass(frozen=True)
class ClassLayer:
    """A layer with outputs per class.

    Tensors whose names match `pattern` hold blocks of `rows` rows for each class, in order; after
    them `background` times `rows` of no class. There may be several such blocks, one per anchor.
    """

    pattern: str
    rows: int = 1
    background: int = 0


class TemplateJson(TypedDict):
    """What `detreg templates --json` prints of a template."""

    name: str
    aliases: list[str]
    summary: str
    hyperparameters: list[ParamJson]


@dataclass(frozen=True, kw_only=True)
class Template:
    """A detector that can be trained by name.

    The functions take the params of their own template, a subclass of CommonParams; no type says
    that they belong together, hence `Any`.
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    description: str
    when: str
    """When to choose it."""
    params: type[CommonParams]
    base_models: Mapping[str, BaseModel]
    build_model: Callable[[Config, Any, int], Config]
    """From the packaged model, the params and the number of classes to the network to train."""
    build_augmentation: Callable[[list[Config], Any], Augmentation]
    """From the published training pipeline and the params."""
    get_class_layers: Callable[[Any], tuple[ClassLayer, ...]]
    """From the params to the layers with outputs per class."""
    decoder: DecoderName
    """How the exported graph turns the outputs of the network's head into detections."""
    adapt_to_few_images: Callable[[Recipe, bool], Recipe] | None = None
    """From the published recipe, and whether weights are loaded, to that of `few_images`.

    None where nothing is known to be better than what was published.
    """

    def get_base_model(self, params: CommonParams) -> BaseModel:
        """Return the base model that the params name."""
        return self.base_models[params.base_model]

    def choose_recipe(
        self, params: CommonParams, recipe: str, has_weights: bool | None = None
    ) -> Recipe:
        """Return how the params' base model is trained.

        `recipe` is the run option. `has_weights` says whether the training began with weights; None
        takes it from the params, which is wrong only for a run that resumes another.
        """
        published = self.get_base_model(params).recipe
        if recipe == PUBLISHED or self.adapt_to_few_images is None:
            return published
        if has_weights is None:
            has_weights = bool(params.sources)
        return self.adapt_to_few_images(published, has_weights)

    def resolve(self, params: P, recipe: str = FEW_IMAGES) -> P:
        """Return the params with a number in place of each `auto`; `recipe` is the run option.

        `batch_size` gets its default: a GPU's memory is not looked at here.
        """
        chosen = self.choose_recipe(params, recipe)
        numbers: dict[str, Any] = {
            "batch_size": get_params(self.params)["batch_size"].default,
            "per_item_lrate": chosen.per_item_lrate,
            "frozen_stages": chosen.frozen_stages if params.sources else 0,
        }
        missing = {
            name: number for name, number in numbers.items() if getattr(params, name) is None
        }
        return replace(params, **missing)

    def as_json(self) -> TemplateJson:
        """Return what `detreg templates --json` prints."""
        params = get_params(self.params)
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "summary": self.summary,
            "hyperparameters": [param.as_json() for param in params.values()],
        }
