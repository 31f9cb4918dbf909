"""The run option `recipe`: what `auto` becomes, and what is as published."""

from dataclasses import replace
from typing import Any

import pytest
from compose_helpers import NANO, YOLOX, compose_values, load_drawn_images

from detreg.data.dataset import Dataset
from detreg.defaults import FEW_IMAGES, PUBLISHED
from detreg.errors import UsageError
from detreg.options import RunOptions
from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import settling
from detreg.training.batch_size_choice import BatchSizeChoice
from detreg.training.settling import Settled, settle

EACH_TEMPLATE = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
SSD = TEMPLATES["ssd"]
OTHERS = [template for template in TEMPLATES.values() if template is not YOLOX]
WITHOUT_WEIGHTS = {"pretrained_weights": "none"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_drawn_images(tmp_path_factory.mktemp("data"), images=6)


def settle_values(
    dataset: Dataset, values: dict[str, Any], template: Template = YOLOX, **options: Any
) -> Settled:
    return settle(template, build(template.params, values), RunOptions(**options), dataset)


def test_few_images_take_four_times_the_rate_and_keep_two_stages(dataset: Dataset) -> None:
    settled = settle_values(dataset, {"base_model": "yolox_nano"})
    assert settled.params.per_item_lrate == pytest.approx(4 * 0.01 / 64)
    assert settled.params.frozen_stages == 2
    assert settled.reasons == {
        "per_item_lrate": "4 times the published rate of yolox_nano (recipe=few_images)",
        "frozen_stages": "as weights are loaded (recipe=few_images)",
    }


def test_random_weights_are_all_trained(dataset: Dataset) -> None:
    settled = settle_values(dataset, {"base_model": "yolox_nano"} | WITHOUT_WEIGHTS)
    assert settled.params.frozen_stages == 0
    assert settled.reasons["frozen_stages"] == "as all weights are random"


def test_published_is_what_was_published(dataset: Dataset) -> None:
    settled = settle_values(dataset, {"base_model": "yolox_nano"}, recipe=PUBLISHED)
    assert settled.params.per_item_lrate == pytest.approx(0.01 / 64)
    assert settled.params.frozen_stages == 0
    assert settled.reasons == {
        "per_item_lrate": "the published rate of yolox_nano",
        "frozen_stages": "as published for yolox_nano",
    }


@pytest.mark.parametrize("recipe", [FEW_IMAGES, PUBLISHED])
def test_a_number_stays_a_number(dataset: Dataset, recipe: str) -> None:
    given = {"per_item_lrate": 0.0002, "frozen_stages": 1, "batch_size": 3}
    settled = settle_values(dataset, given, recipe=recipe)
    assert settled.params == build(YOLOX.params, given)
    assert settled.reasons == {}


@pytest.mark.parametrize(("num_epochs", "plain"), [(1, 1), (2, 2), (8, 4), (9, 4), (30, 15)])
def test_few_images_are_mixed_in_the_first_half(
    dataset: Dataset, num_epochs: int, plain: int
) -> None:
    config = compose_values(dataset, recipe=FEW_IMAGES, num_epochs=num_epochs, **NANO)
    hooks = {hook["type"]: hook for hook in config["custom_hooks"]}
    assert hooks["PlainEpochsHook"]["epochs"] == plain


@pytest.mark.parametrize("template", OTHERS, ids=[template.name for template in OTHERS])
def test_with_weights_the_other_templates_have_one_recipe(
    template: Template, dataset: Dataset
) -> None:
    few = compose_values(dataset, template, FEW_IMAGES)
    assert few == compose_values(dataset, template, PUBLISHED)


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        (WITHOUT_WEIGHTS, 16 * 0.015 / 192),
        ({}, 0.015 / 192),
        (WITHOUT_WEIGHTS | {"base_model": "ssd300_vgg16", "image_size": 300}, 0.002 / 64),
    ],
    ids=["random weights", "weights", "VGG"],
)
def test_ssdlite_takes_sixteen_times_the_rate_from_random_weights(
    dataset: Dataset, values: dict[str, Any], rate: float
) -> None:
    settled = settle_values(dataset, values, SSD)
    assert settled.params.per_item_lrate == pytest.approx(rate)
    published = settle_values(dataset, WITHOUT_WEIGHTS, SSD, recipe=PUBLISHED)
    assert published.params.per_item_lrate == pytest.approx(0.015 / 192)


@EACH_TEMPLATE
def test_both_recipes_settle_every_auto(template: Template, dataset: Dataset) -> None:
    for recipe in (FEW_IMAGES, PUBLISHED):
        settled = settle_values(dataset, {"batch_size": "auto"}, template, recipe=recipe)
        assert settled.params.learning_rate > 0
        assert set(settled.reasons) == {"per_item_lrate", "frozen_stages", "batch_size"}
        defaults = template.resolve(template.params(), recipe)
        assert settled.params == defaults


def test_processes_that_cannot_share_the_default_are_refused(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(
        settling, "choose_batch_size", lambda *_: BatchSizeChoice(8, "as there is no GPU")
    )
    with pytest.raises(UsageError, match="batch_size=8 must be a multiple of the 3 processes"):
        settle_values(dataset, {"batch_size": "auto"})


@pytest.mark.parametrize(("num_epochs", "patience"), [(1, 5), (8, 5), (30, 10), (100, 34)])
def test_auto_patience_is_a_third_of_the_epochs(
    dataset: Dataset, num_epochs: int, patience: int
) -> None:
    settled = settle_values(dataset, {"num_epochs": num_epochs}, patience=None)
    assert settled.options == replace(RunOptions(), patience=patience)
    assert settled.reasons["patience"] == f"a third of num_epochs={num_epochs}, at least 5"
