"""One suite over all templates: what exists once per template is tested once here."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from detreg import templates
from detreg.errors import UsageError
from detreg.options import RunOptions
from detreg.params import Param, build, get_params, to_texts
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template

COMMON = {
    "keep_aspect_ratio": True,
    "max_aspect_ratio": 1.5,
    "min_samples_per_epoch": 300,
    "pretrained_weights": "coco",
    "frozen_stages": 0,
}
RETINA = {"image_size": (512,), "batch_size": 8, "num_epochs": 50}
# Nobody has published COCO weights for the Inception networks, so `coco` could only fail.
RETINA |= {
    "anchor_ratios": (0.5, 1.0, 2.0),
    "use_focal_loss": True,
    "use_perclass_regression": False,
    "pretrained_weights": "imagenet",
}
# The names and defaults that are promised; everything optional is empty by default.
PROMISED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "yolox": (
        ("MMDetection_YOLOX", "MMDetection_YoloX"),
        {"image_size": (640,), "batch_size": 8, "num_epochs": 50}
        | {"max_aspect_ratio": 1.0, "base_model": "yolox_s"},
    ),
    "yolof": (
        ("MMDetection_YOLOF", "MMDetection_YoloF"),
        {"image_size": (512,), "batch_size": 16, "num_epochs": 100}
        | {"frozen_stages": 1, "anchor_ratios": (1.0,), "base_model": "resnet50"},
    ),
    "ssd": (
        ("MMDetection_SSD",),
        {"image_size": (320,), "batch_size": 24, "num_epochs": 120}
        | {"keep_aspect_ratio": False, "base_model": "ssdlite_mobilenetv2"},
    ),
    "faster_rcnn": (
        ("MMDetection_FasterRCNN",),
        {"image_size": (800,), "batch_size": 2, "num_epochs": 12}
        | {
            "max_aspect_ratio": 1.7,
            "frozen_stages": 1,
            "use_perclass_regression": True,
            "anchor_ratios": (0.5, 1.0, 2.0),
        }
        | {"base_model": "resnet50"},
    ),
    "inception_v4": (("Clarifai_InceptionV4",), RETINA | {"base_model": "inception_v4"}),
    "inception_v2": (("Clarifai_InceptionV2",), RETINA | {"base_model": "inception_v2"}),
    "msc10": (
        ("Detection_MSC10", "detection_msc10"),
        RETINA
        | {
            "base_model": "inception_v4",
            "pretrained_weights": "none",
            "pretrain_base_data": "imagenet",
        },
    ),
}
MSC10_BASE_MODELS = (
    "inception_v4",
    "inception_v2",
    "resnet50",
    "resnet101",
    "mobilenetv2_100",
    "efficientnet_b0",
    "convnext_tiny",
)
RATES = {
    "yolox": 0.00015625,
    "yolof": 0.001875,
    "ssd": 0.000078125,
    "faster_rcnn": 0.00125,
    "inception_v4": 0.000625,
    "inception_v2": 0.000625,
    "msc10": 0.000625,
}
"""What per_item_lrate=auto is for the default base models."""
BASE_MODELS = {
    "yolox": ("yolox_nano", "yolox_tiny", "yolox_s", "yolox_m", "yolox_l", "yolox_x"),
    "yolof": ("resnet50",),
    "ssd": ("ssdlite_mobilenetv2", "ssd300_vgg16", "ssd512_vgg16"),
    "faster_rcnn": ("resnet50", "resnet101"),
    "inception_v4": ("inception_v4",),
    "inception_v2": ("inception_v2",),
    "msc10": MSC10_BASE_MODELS,
}
SOURCES = {"pretrained_weights": "none", "pretrain_base_data": "none"}
"""No source of weights; only msc10 has both."""

EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
EVERY = [
    (template, param)
    for template in TEMPLATES.values()
    for param in get_params(template.params).values()
]
EACH_PARAM = pytest.mark.parametrize(
    ("template", "param"), EVERY, ids=[f"{template.name}-{param.name}" for template, param in EVERY]
)


def companions(param: Param, value: Any) -> dict[str, Any]:
    """Other values without which this one is refused: a size's own bounds, a second source of weights."""
    if (
        param.name in ("image_size", "random_resize_lower", "random_resize_upper")
        and value is not None
    ):
        bounds = dict.fromkeys(("image_size", "random_resize_lower", "random_resize_upper"), value)
        return bounds | {"keep_aspect_ratio": len(value) == 1}
    if param.name == "base_model" and str(value).endswith("_vgg16"):
        return {"image_size": 320}  # its last map needs 288 px
    return {"frozen_stages": 0} if param.name in SOURCES else {}


def unsourced(template: Template) -> dict[str, str]:
    """No source of weights."""
    return {name: value for name, value in SOURCES.items() if name in get_params(template.params)}


def corners(param: Param) -> list[Any]:
    """Values at the low end, the default and the high end of a domain."""
    if param.type == "bool":
        return [False, True]
    if param.type == "choice":
        return list(param.choices or ())
    if param.type == "text":
        return [param.default, "0123456789abcdef0123456789abcdef"]
    low, high = param.minimum, param.maximum
    if param.type == "size":
        return [param.default, (low,), (high,), (low, high)]
    if param.type == "numbers":
        return [param.default, (low,), (high,) * 8]
    return [low, param.default, high]


def outside(param: Param) -> list[Any]:
    """Values just out of the domain, off the step, and of the wrong type."""
    if param.type == "bool":
        return ["maybe", 2, None]
    if param.type == "choice":
        return ["no_such_choice", 7]
    if param.type == "text":
        return ["", 7]
    assert param.minimum is not None
    assert param.maximum is not None
    unit = param.step or 0.001
    values = [param.minimum - unit, param.maximum + unit, math.nan, math.inf, "many", True]
    return values + ([param.minimum + unit / 2] if param.step else [])


def refused(template: Template, values: dict[str, Any], *words: str) -> None:
    """The values are refused in one line that has all the words."""
    with pytest.raises(UsageError) as caught:
        build(template.params, values)
    (problem,) = caught.value.problems
    for word in words:
        assert word in problem


@EACH_PARAM
def test_low_default_and_high_are_valid_and_survive_as_text(
    template: Template, param: Param
) -> None:
    for value in corners(param):
        params = build(template.params, companions(param, value) | {param.name: value})
        assert getattr(params, param.name) == value
        passed = to_texts(params)  # what `mlflow run` puts on the command line
        assert all(passed.values())
        assert build(template.params, passed) == params


@EACH_PARAM
def test_what_is_outside_is_refused_by_name(template: Template, param: Param) -> None:
    for value in outside(param):
        refused(template, {param.name: value}, f"{param.name} must be {param.domain}")


@EACH
def test_all_low_and_all_high_at_once(template: Template) -> None:
    numeric = [
        param for param in get_params(template.params).values() if param.type in ("int", "float")
    ]
    for end in ("minimum", "maximum"):
        values = {param.name: getattr(param, end) for param in numeric}
        params = build(template.params, values)
        assert {name: getattr(params, name) for name in values} == values


@EACH
def test_a_declaration_explains_itself(template: Template) -> None:
    for param in get_params(template.params).values():
        assert len(param.help) > 10
        assert "\n" not in param.help
        assert param.default is None or param.parse(param.format(param.default)) == param.default


@EACH
def test_the_promised_names_and_defaults(template: Template) -> None:
    aliases, defaults = PROMISED[template.name]
    assert set(aliases) <= set(template.aliases)
    params = build(template.params, {})
    expected = COMMON | defaults
    assert {name: getattr(params, name) for name in expected} == expected
    empty = ("random_resize_lower", "random_resize_upper", "load_from", "continue_from_eid")
    assert [getattr(params, name) for name in empty] == [None] * 4
    assert params.per_item_lrate is None and to_texts(params)["per_item_lrate"] == "auto"
    assert template.resolve(params).per_item_lrate == pytest.approx(RATES[template.name])


def test_auto_is_the_rate_of_the_chosen_base_model_and_a_number_stays_a_number() -> None:
    ssd = TEMPLATES["ssd"]
    for base_model, rate in {
        "ssdlite_mobilenetv2": 0.015 / 192,
        "ssd300_vgg16": 0.002 / 64,
        "ssd512_vgg16": 0.002 / 64,
    }.items():
        for given in ("auto", "AUTO", None):
            params = build(ssd.params, {"base_model": base_model, "per_item_lrate": given})
            with pytest.raises(ValueError, match=r"per_item_lrate=auto has no number yet"):
                _ = params.learning_rate
            assert ssd.resolve(params).learning_rate == pytest.approx(24 * rate)
        assert (
            ssd.resolve(
                build(ssd.params, {"base_model": base_model, "per_item_lrate": "1e-3"})
            ).per_item_lrate
            == 1e-3
        )
    (declaration,) = (
        param for param in ssd.as_json()["hyperparameters"] if param["name"] == "per_item_lrate"
    )
    assert (declaration["default"], declaration["minimum"], declaration["maximum"]) == (
        "auto",
        0.0,
        1.0,
    )


def test_only_the_base_model_that_was_published_at_300_pixels_takes_them() -> None:
    ssd = TEMPLATES["ssd"]
    assert build(ssd.params, {"image_size": 300, "base_model": "ssd300_vgg16"}).image_size == (300,)
    for base_model in ("ssdlite_mobilenetv2", "ssd512_vgg16"):
        values = {"image_size": 300, "base_model": base_model}
        refused(
            ssd,
            values,
            "image_size=300 is the published size of base_model=ssd300_vgg16 alone",
            f"got base_model={base_model}",
        )
    for name in set(TEMPLATES) - {"ssd"}:
        refused(
            TEMPLATES[name],
            {"image_size": 300},
            "image_size must be",
            "the nearest are 288 and 320",
        )


@pytest.mark.parametrize("empty", ["none", "None", "NONE", None])
def test_none_is_taken_in_any_case_by_what_can_be_empty_and_by_the_choice_none(
    empty: str | None,
) -> None:
    for template in TEMPLATES.values():
        params = build(
            template.params,
            {
                "pretrained_weights": empty,
                "load_from": empty,
                "random_resize_lower": empty,
                "frozen_stages": 0,
            },
        )
        assert (params.pretrained_weights, params.load_from, params.random_resize_lower) == (
            "none",
            None,
            None,
        )
        refused(
            template, {"batch_size": empty}, "batch_size must be an integer from 1 to 32, got none"
        )
    refused(
        TEMPLATES["yolox"],
        {"per_item_lrate": "none"},
        "per_item_lrate must be auto, or a number from 0 to 1, got none",
    )


@EACH
def test_the_promised_domains(template: Template) -> None:
    params = get_params(template.params)
    domains = {
        name: (params[name].minimum, params[name].maximum, params[name].step) for name in params
    }
    for name in ("image_size", "random_resize_lower", "random_resize_upper"):
        assert domains[name] == (64, 2048, 32)
    assert domains["max_aspect_ratio"] == (1.0, 5.0, 0.1)
    assert domains["batch_size"] == (1, 32, 1)
    assert domains["num_epochs"] == (1, 200, 1)
    assert domains["min_samples_per_epoch"] == (1, 10000, 1)
    assert domains["per_item_lrate"] == (0.0, 1.0, None)
    assert params["per_item_lrate"].search.endswith(":log")
    assert domains["frozen_stages"] == (0, 4, 1)
    assert {"none", "coco"} <= set(params["pretrained_weights"].choices or ())


@EACH
def test_every_base_model_has_a_configuration_and_a_verifiable_file(template: Template) -> None:
    for base_model, weights in template.base_models.items():
        assert weights.config.endswith(".py"), base_model
        assert (weights.coco_ap is None) or 0 < weights.coco_ap < 100
        assert weights.parameters > 0 and weights.gflops > 0
        if weights.coco_weights:
            assert weights.coco_weights.url.startswith("https://")
            assert re.fullmatch(r"[0-9a-f]{8,64}", weights.coco_weights.sha256)


@EACH
def test_the_schedule_is_a_factor_of_the_rate(template: Template) -> None:
    for base_model in template.base_models.values():
        schedule = base_model.recipe.schedule
        factors = [schedule.factor(step / 1000, 1000) for step in range(1000)]
        assert all(0 <= factor <= 1 for factor in factors)
        assert 0.95 <= max(factors) <= 1  # a cosine begins to fall before the warm-up ends
        assert factors[-1] < 0.5
        assert 0 <= schedule.plain_epochs < schedule.epochs


@EACH
def test_the_promised_base_models(template: Template) -> None:
    assert (
        set(get_params(template.params)["base_model"].choices or ())
        == set(BASE_MODELS[template.name])
        == set(template.base_models)
    )


def test_there_are_seven_templates_and_a_file_for_each() -> None:
    folder = Path(templates.__file__).parent
    files = {file.stem for file in folder.glob("*.py") if " = Template(\n" in file.read_text()}
    assert files == set(TEMPLATES) == set(PROMISED) == set(BASE_MODELS)


@EACH
def test_which_template_has_which_hyperparameter(template: Template) -> None:
    retina = {"inception_v4", "inception_v2", "msc10"}
    wanted = {
        "anchor_ratios": {"yolof", "faster_rcnn", *retina},
        "use_perclass_regression": {"faster_rcnn", *retina},
        "use_focal_loss": retina,
        "pretrain_base_data": {"msc10"},
    }
    own = set(get_params(template.params)) - set(get_params(CommonParams))
    assert own == {name for name, holders in wanted.items() if template.name in holders}
    assert ("imagenet" in (get_params(template.params)["pretrained_weights"].choices or ())) == (
        template.name in retina
    )


def test_names_are_unique_in_any_case() -> None:
    for template in TEMPLATES.values():
        words = {word.lower() for word in (template.name, *template.aliases)}
        others = {
            word.lower()
            for other in TEMPLATES.values()
            if other is not template
            for word in (other.name, *other.aliases)
        }
        assert not words & others
        assert TEMPLATES[template.name] is template
        assert template.name == template.name.lower()
        assert len(set(template.aliases)) == len(template.aliases)


@EACH
def test_an_alias_is_found_in_any_case(template: Template) -> None:
    for word in (template.name, *template.aliases):
        for spelled in (word, word.lower(), word.upper(), word.title()):
            assert templates.find_template(spelled) is template


def test_an_unknown_name_gets_the_near_one() -> None:
    with pytest.raises(UsageError, match=r"unknown template yolocks \(did you mean yolox\?\)"):
        templates.find_template("yolocks")


@EACH
def test_hyperparameters_and_run_options_have_different_names(template: Template) -> None:
    assert not set(get_params(template.params)) & set(get_params(RunOptions))
    assert set(get_params(CommonParams)) <= set(get_params(template.params))


@EACH
def test_two_numbers_are_an_exact_size_only(template: Template) -> None:
    refused(
        template,
        {"image_size": "800,512", "keep_aspect_ratio": "true"},
        "width,height",
        "keep_aspect_ratio=false",
    )
    assert build(
        template.params, {"image_size": "800,512", "keep_aspect_ratio": "false"}
    ).image_size == (800, 512)
    for name in ("random_resize_lower", "random_resize_upper"):
        refused(template, {name: "800,512", "keep_aspect_ratio": "true"}, "width,height", name)
        mixed = {"image_size": "640", name: "640,640", "keep_aspect_ratio": "false"}
        refused(template, mixed, "random_resize_lower", "random_resize_upper", "form of image_size")


@EACH
@pytest.mark.parametrize(
    "values",
    [
        {"image_size": "320", "random_resize_lower": "352", "random_resize_upper": "320"},
        {"image_size": "320", "random_resize_lower": "352"},
        {"image_size": "320", "random_resize_upper": "288"},
        {"image_size": "320,320", "keep_aspect_ratio": "false", "random_resize_lower": "320,352"},
    ],
)
def test_the_lower_size_is_not_above_the_upper(template: Template, values: dict[str, str]) -> None:
    refused(template, values, "random_resize_lower", "must not be above random_resize_upper")


@EACH
def test_two_places_to_start_from_are_refused(template: Template) -> None:
    refused(
        template,
        {"continue_from_eid": "0" * 32, "load_from": "coco"},
        "continue_from_eid",
        "load_from",
    )


@EACH
@pytest.mark.parametrize(
    "source",
    [{"load_from": "a.pth"}, {"continue_from_eid": "0" * 32}, {"pretrained_weights": "coco"}],
)
def test_frozen_stages_want_a_source_of_weights(template: Template, source: dict[str, str]) -> None:
    values = unsourced(template) | {"frozen_stages": 2}
    refused(template, values, "frozen_stages", "pretrained_weights")
    assert build(template.params, values | source).frozen_stages == 2
    assert build(template.params, values | {"frozen_stages": 0}).frozen_stages == 0


@EACH
def test_settings_tell_the_problems_of_both_kinds_at_once(template: Template) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(template, {"batch_size": 0, "seed": -1, "color": "blue"})
    assert len(caught.value.problems) == 3
    for name in ("batch_size must be", "seed must be", "unknown parameter color"):
        assert any(name in problem for problem in caught.value.problems)


@EACH
def test_the_rate_of_a_step_is_batch_size_times_the_rate_of_an_item(template: Template) -> None:
    assert build(
        template.params, {"batch_size": 4, "per_item_lrate": 0.001}
    ).learning_rate == pytest.approx(0.004)
    assert build(template.params, {"per_item_lrate": 0}).learning_rate == 0
