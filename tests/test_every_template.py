"""One suite over all templates: what exists once per template is tested once here."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from detreg import templates
from detreg.defaults import PUBLISHED
from detreg.errors import UsageError
from detreg.options import RunOptions
from detreg.params import Param, Value, build, get_params, to_texts
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template


@dataclass(frozen=True)
class Promise:
    """Names and defaults that are public."""

    aliases: tuple[str, ...]
    defaults: Mapping[str, Value]
    base_models: tuple[str, ...]
    per_item_lrate: float
    """What `auto` is for the default base model in the published recipe."""
    frozen_stages: int = 0
    """The same."""


COMMON_DEFAULTS: dict[str, Value] = {
    "keep_aspect_ratio": True,
    "max_aspect_ratio": 1.5,
    "min_samples_per_epoch": 300,
    "pretrained_weights": "coco",
}
"""Of what a promise does not name."""

RETINANET_DEFAULTS: dict[str, Value] = {
    "image_size": (512,),
    "batch_size": 8,
    "num_epochs": 50,
    "anchor_ratios": (0.5, 1.0, 2.0),
    "use_focal_loss": True,
    "use_perclass_regression": False,
    # Nobody published COCO weights for the Inception networks, so `coco` could only fail.
    "pretrained_weights": "imagenet",
}

PROMISED = {
    "yolox": Promise(
        aliases=("MMDetection_YOLOX", "MMDetection_YoloX"),
        defaults={
            "image_size": (640,),
            "max_aspect_ratio": 1.0,
            "batch_size": 8,
            "num_epochs": 50,
            "base_model": "yolox_s",
        },
        base_models=("yolox_nano", "yolox_tiny", "yolox_s", "yolox_m", "yolox_l", "yolox_x"),
        per_item_lrate=0.00015625,
    ),
    "yolof": Promise(
        aliases=("MMDetection_YOLOF", "MMDetection_YoloF"),
        defaults={
            "image_size": (512,),
            "batch_size": 16,
            "num_epochs": 100,
            "anchor_ratios": (1.0,),
            "base_model": "resnet50",
        },
        base_models=("resnet50",),
        per_item_lrate=0.001875,
        frozen_stages=1,
    ),
    "ssd": Promise(
        aliases=("MMDetection_SSD",),
        defaults={
            "image_size": (320,),
            "keep_aspect_ratio": False,
            "batch_size": 24,
            "num_epochs": 120,
            "base_model": "ssdlite_mobilenetv2",
        },
        base_models=("ssdlite_mobilenetv2", "ssd300_vgg16", "ssd512_vgg16"),
        per_item_lrate=0.000078125,
    ),
    "faster_rcnn": Promise(
        aliases=("MMDetection_FasterRCNN",),
        defaults={
            "image_size": (800,),
            "max_aspect_ratio": 1.7,
            "batch_size": 2,
            "num_epochs": 12,
            "anchor_ratios": (0.5, 1.0, 2.0),
            "use_perclass_regression": True,
            "base_model": "resnet50",
        },
        base_models=("resnet50", "resnet101"),
        per_item_lrate=0.00125,
        frozen_stages=1,
    ),
    "inception_v4": Promise(
        aliases=("Clarifai_InceptionV4",),
        defaults={**RETINANET_DEFAULTS, "base_model": "inception_v4"},
        base_models=("inception_v4",),
        per_item_lrate=0.000625,
    ),
    "inception_v2": Promise(
        aliases=("Clarifai_InceptionV2",),
        defaults={**RETINANET_DEFAULTS, "base_model": "inception_v2"},
        base_models=("inception_v2",),
        per_item_lrate=0.000625,
    ),
    "msc10": Promise(
        aliases=("Detection_MSC10", "detection_msc10"),
        defaults={
            **RETINANET_DEFAULTS,
            "pretrained_weights": "none",
            "pretrain_base_data": "imagenet",
            "base_model": "inception_v4",
        },
        base_models=(
            "inception_v4",
            "inception_v2",
            "resnet50",
            "resnet101",
            "mobilenetv2_100",
            "efficientnet_b0",
            "convnext_tiny",
        ),
        per_item_lrate=0.000625,
    ),
}

RETINANETS = {"inception_v4", "inception_v2", "msc10"}

SIZES = ("image_size", "random_resize_lower", "random_resize_upper")
NO_SOURCE = {"pretrained_weights": "none", "pretrain_base_data": "none"}
"""No source of weights; only msc10 has both."""

EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))

CASES = [
    (template, param)
    for template in TEMPLATES.values()
    for param in get_params(template.params).values()
]
EACH_PARAM = pytest.mark.parametrize(
    ("template", "param"), CASES, ids=[f"{template.name}-{param.name}" for template, param in CASES]
)


def choose_companions(param: Param, value: Value) -> dict[str, Value]:
    """Return the other values without which a value is refused."""
    if param.name in SIZES and isinstance(value, tuple):
        sizes: dict[str, Value] = dict.fromkeys(SIZES, value)
        return {**sizes, "keep_aspect_ratio": len(value) == 1}
    if param.name == "base_model" and str(value).endswith("_vgg16"):
        return {"image_size": 320}  # its last map needs 288 px
    if param.name in NO_SOURCE:
        return {"frozen_stages": 0}
    return {}


def leave_out_sources(template: Template) -> dict[str, str]:
    """Return the values with which a template has no source of weights."""
    names = get_params(template.params)
    return {name: value for name, value in NO_SOURCE.items() if name in names}


def get_bounds(param: Param) -> tuple[float, float]:
    """Return the minimum and the maximum of a number."""
    assert param.minimum is not None
    assert param.maximum is not None
    return param.minimum, param.maximum


def list_corners(param: Param) -> list[Value]:
    """Return values at the low end, the default and the high end of a domain."""
    if param.type == "bool":
        return [False, True]
    if param.type == "choice":
        return list(param.choices or ())
    if param.type == "text":
        return [param.default, "0123456789abcdef0123456789abcdef"]

    low, high = get_bounds(param)
    if param.type == "size":
        return [param.default, (low,), (high,), (low, high)]
    if param.type == "numbers":
        return [param.default, (low,), (high,) * 8]
    return [low, param.default, high]


def list_values_outside(param: Param) -> list[object]:
    """Return values just out of the domain, off the step, and of the wrong type."""
    if param.type == "bool":
        return ["maybe", 2, None]
    if param.type == "choice":
        return ["no_such_choice", 7]
    if param.type == "text":
        return ["", 7]

    low, high = get_bounds(param)
    unit = param.step or 0.001
    values = [low - unit, high + unit, math.nan, math.inf, "many", True]
    if param.step:
        values.append(low + unit / 2)
    return values


def assert_refused(template: Template, values: Mapping[str, object], *words: str) -> None:
    """Assert that the values are refused in one line that has all the words."""
    with pytest.raises(UsageError) as caught:
        build(template.params, values)
    (problem,) = caught.value.problems
    for word in words:
        assert word in problem


@EACH_PARAM
def test_low_default_and_high_are_valid_and_survive_as_text(
    template: Template, param: Param
) -> None:
    for value in list_corners(param):
        companions = choose_companions(param, value)
        params = build(template.params, {**companions, param.name: value})
        assert getattr(params, param.name) == value

        texts = to_texts(params)  # what `mlflow run` puts on the command line
        assert all(texts.values())
        assert build(template.params, texts) == params


@EACH_PARAM
def test_what_is_outside_is_refused_by_name(template: Template, param: Param) -> None:
    for value in list_values_outside(param):
        assert_refused(template, {param.name: value}, f"{param.name} must be {param.domain}")


@EACH
def test_all_low_and_all_high_at_once(template: Template) -> None:
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for param in get_params(template.params).values():
        if param.type in ("int", "float"):
            lowest[param.name], highest[param.name] = get_bounds(param)

    for values in (lowest, highest):
        params = build(template.params, values)
        assert {name: getattr(params, name) for name in values} == values


@EACH
def test_a_declaration_explains_itself(template: Template) -> None:
    for param in get_params(template.params).values():
        assert len(param.help) > 10
        assert "\n" not in param.help


@EACH
def test_the_promised_names_and_defaults(template: Template) -> None:
    promise = PROMISED[template.name]
    assert set(promise.aliases) <= set(template.aliases)

    params = build(template.params, {})
    defaults = {**COMMON_DEFAULTS, **promise.defaults}
    assert {name: getattr(params, name) for name in defaults} == defaults
    for name in ("random_resize_lower", "random_resize_upper", "load_from", "continue_from_eid"):
        assert getattr(params, name) is None

    for name in ("per_item_lrate", "frozen_stages"):
        assert getattr(params, name) is None
        assert to_texts(params)[name] == "auto"
    resolved = template.resolve(params, PUBLISHED)
    assert resolved.per_item_lrate == pytest.approx(promise.per_item_lrate)
    has_weights = bool(params.sources)
    assert resolved.frozen_stages == (promise.frozen_stages if has_weights else 0)


@pytest.mark.parametrize(
    ("base_model", "rate"),
    [
        ("ssdlite_mobilenetv2", 0.015 / 192),
        ("ssd300_vgg16", 0.002 / 64),
        ("ssd512_vgg16", 0.002 / 64),
    ],
)
def test_auto_is_the_rate_of_the_chosen_base_model(base_model: str, rate: float) -> None:
    ssd = TEMPLATES["ssd"]
    for given in ("auto", "AUTO", None):
        params = build(ssd.params, {"base_model": base_model, "per_item_lrate": given})
        with pytest.raises(ValueError, match=r"per_item_lrate=auto has no number yet"):
            _ = params.learning_rate
        assert ssd.resolve(params).learning_rate == pytest.approx(24 * rate)

    params = build(ssd.params, {"base_model": base_model, "per_item_lrate": "1e-3"})
    assert ssd.resolve(params).per_item_lrate == 1e-3


def test_auto_is_the_default_in_json() -> None:
    hyperparameters = TEMPLATES["ssd"].as_json()["hyperparameters"]
    (lrate,) = (param for param in hyperparameters if param["name"] == "per_item_lrate")
    assert lrate["default"] == "auto"
    assert lrate["minimum"] == 0.0
    assert lrate["maximum"] == 1.0


def test_only_the_base_model_that_was_published_at_300_pixels_takes_them() -> None:
    ssd = TEMPLATES["ssd"]
    assert build(ssd.params, {"image_size": 300, "base_model": "ssd300_vgg16"}).image_size == (300,)

    for base_model in ("ssdlite_mobilenetv2", "ssd512_vgg16"):
        assert_refused(
            ssd,
            {"image_size": 300, "base_model": base_model},
            "image_size=300 is the published size of base_model=ssd300_vgg16 alone",
            f"got base_model={base_model}",
        )

    for name in set(TEMPLATES) - {"ssd"}:
        template = TEMPLATES[name]
        assert_refused(
            template, {"image_size": 300}, "image_size must be", "the nearest are 288 and 320"
        )


@EACH
@pytest.mark.parametrize("empty", ["none", "None", "NONE", None])
def test_none_is_accepted_in_any_case_where_a_value_can_be_empty(
    template: Template, empty: str | None
) -> None:
    values = {
        "pretrained_weights": empty,  # `none` is one of its choices
        "load_from": empty,
        "random_resize_lower": empty,
        "frozen_stages": 0,
    }
    params = build(template.params, values)
    assert params.pretrained_weights == "none"
    assert params.load_from is None
    assert params.random_resize_lower is None

    message = "num_epochs must be an integer from 1 to 200, got none"
    assert_refused(template, {"num_epochs": empty}, message)


def test_none_is_refused_where_a_value_can_be_auto() -> None:
    message = "per_item_lrate must be auto, or a number from 0 to 1, got none"
    assert_refused(TEMPLATES["yolox"], {"per_item_lrate": "none"}, message)


@EACH
def test_the_promised_domains(template: Template) -> None:
    params = get_params(template.params)
    domains = {name: (param.minimum, param.maximum, param.step) for name, param in params.items()}
    for name in SIZES:
        assert domains[name] == (64, 2048, 32)
    assert domains["max_aspect_ratio"] == (1.0, 5.0, 0.1)
    assert domains["batch_size"] == (1, 32, 1)
    assert domains["num_epochs"] == (1, 200, 1)
    assert domains["min_samples_per_epoch"] == (1, 10000, 1)
    assert domains["per_item_lrate"] == (0.0, 1.0, None)
    assert domains["frozen_stages"] == (0, 4, 1)

    search = params["per_item_lrate"].search
    assert search is not None
    assert search.endswith(":log")
    assert {"none", "coco"} <= set(params["pretrained_weights"].choices or ())


@EACH
def test_every_base_model_has_a_configuration_and_a_verifiable_file(template: Template) -> None:
    for base_model in template.base_models.values():
        assert base_model.config.endswith(".py")
        assert base_model.coco_ap is None or 0 < base_model.coco_ap < 100
        assert base_model.parameters > 0
        assert base_model.gflops > 0

        weights = base_model.coco_weights
        if weights is not None:
            assert weights.url.startswith("https://")
            assert re.fullmatch(r"[0-9a-f]{8,64}", weights.sha256)


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
    promised = set(PROMISED[template.name].base_models)
    assert set(get_params(template.params)["base_model"].choices or ()) == promised
    assert set(template.base_models) == promised


def test_there_are_seven_templates_and_a_file_for_each() -> None:
    folder = Path(templates.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if " = Template(\n" in path.read_text()}
    assert files == set(TEMPLATES) == set(PROMISED)


@EACH
def test_which_template_has_which_hyperparameter(template: Template) -> None:
    owners = {
        "anchor_ratios": {"yolof", "faster_rcnn", *RETINANETS},
        "use_perclass_regression": {"faster_rcnn", *RETINANETS},
        "use_focal_loss": RETINANETS,
        "masks": {"faster_rcnn", *RETINANETS},
        "pretrain_base_data": {"msc10"},
    }
    params = get_params(template.params)
    own = set(params) - set(get_params(CommonParams))
    assert own == {name for name, names in owners.items() if template.name in names}

    takes_imagenet = "imagenet" in (params["pretrained_weights"].choices or ())
    assert takes_imagenet == (template.name in RETINANETS)


def test_names_and_aliases_are_unique_in_any_case() -> None:
    owner_of: dict[str, str] = {}
    for template in TEMPLATES.values():
        assert TEMPLATES[template.name] is template
        assert template.name == template.name.lower()
        assert len(set(template.aliases)) == len(template.aliases)

        # A template's own aliases may differ by case only.
        for word in {word.lower() for word in (template.name, *template.aliases)}:
            assert word not in owner_of
            owner_of[word] = template.name


@EACH
def test_an_alias_is_found_in_any_case(template: Template) -> None:
    for word in (template.name, *template.aliases):
        for spelling in (word, word.lower(), word.upper(), word.title()):
            assert templates.find_template(spelling) is template


def test_an_unknown_name_gets_the_near_one() -> None:
    message = r"unknown template yolocks \(did you mean yolox\?\): must be one of yolox, yolof, "
    with pytest.raises(UsageError, match=message):
        templates.find_template("yolocks")


@EACH
def test_hyperparameters_and_run_options_have_different_names(template: Template) -> None:
    names = set(get_params(template.params))
    assert names.isdisjoint(get_params(RunOptions))
    assert names >= set(get_params(CommonParams))


@EACH
def test_two_numbers_are_an_exact_size_only(template: Template) -> None:
    exact = {"image_size": "800,512", "keep_aspect_ratio": "false"}
    assert build(template.params, exact).image_size == (800, 512)

    kept = {"image_size": "800,512", "keep_aspect_ratio": "true"}
    assert_refused(template, kept, "width,height", "keep_aspect_ratio=false")

    for name in ("random_resize_lower", "random_resize_upper"):
        kept = {name: "800,512", "keep_aspect_ratio": "true"}
        assert_refused(template, kept, "width,height", name)

        mixed = {"image_size": "640", name: "640,640", "keep_aspect_ratio": "false"}
        assert_refused(
            template, mixed, "random_resize_lower", "random_resize_upper", "form of image_size"
        )


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
    message = "must not be above random_resize_upper"
    assert_refused(template, values, "random_resize_lower", message)


@EACH
def test_two_places_to_start_from_are_refused(template: Template) -> None:
    values = {"continue_from_eid": "0" * 32, "load_from": "coco"}
    assert_refused(template, values, "continue_from_eid", "load_from")


@EACH
@pytest.mark.parametrize(
    "source",
    [{"load_from": "a.pth"}, {"continue_from_eid": "0" * 32}, {"pretrained_weights": "coco"}],
)
def test_frozen_stages_need_a_source_of_weights(template: Template, source: dict[str, str]) -> None:
    values = leave_out_sources(template)
    frozen = {**values, "frozen_stages": 2}
    assert_refused(template, frozen, "frozen_stages", "pretrained_weights")
    assert build(template.params, {**frozen, **source}).frozen_stages == 2
    assert build(template.params, {**values, "frozen_stages": 0}).frozen_stages == 0


@EACH
def test_problems_of_hyperparameters_and_options_are_reported_at_once(template: Template) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(template, {"batch_size": 0, "seed": -1, "color": "blue"})
    problems = caught.value.problems
    assert len(problems) == 3
    for words in ("batch_size must be", "seed must be", "unknown parameter color"):
        assert any(words in problem for problem in problems)


@EACH
def test_the_rate_of_a_step_is_batch_size_times_the_rate_of_an_item(template: Template) -> None:
    params = build(template.params, {"batch_size": 4, "per_item_lrate": 0.001})
    assert params.learning_rate == pytest.approx(0.004)
    assert build(template.params, {"per_item_lrate": 0}).learning_rate == 0
