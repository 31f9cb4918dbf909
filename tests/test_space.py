"""What a sweep searches: read from text, refused with the reason, inside every template's own ranges."""

import random
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest

from detreg.errors import NotFoundError, UsageError
from detreg.options import RunOptions, SweepOptions
from detreg.params import Param, build, get_params
from detreg.sweeps.dimension import Dimension
from detreg.sweeps.dimension_text import parse_dimension
from detreg.sweeps.plan import Plan
from detreg.sweeps.space import Space
from detreg.sweeps.space_text import parse_space
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams

YOLOX = get_params(TEMPLATES["yolox"].params)


def of(templates: str, text: str | None = None, **fixed: Any) -> Any:
    return parse_space(tuple(TEMPLATES[name] for name in templates.split(",")), text, fixed)


def refused(templates: str, text: str | None = None, **fixed: Any) -> str:
    with pytest.raises(UsageError) as caught:
        of(templates, text, **fixed)
    return "\n".join(caught.value.problems)


def test_the_contracts_example() -> None:
    dims = (
        of(
            "yolox",
            "per_item_lrate=1e-5:1e-3:log image_size=320:640:32 frozen_stages=0:2:1 base_model=yolox_nano|yolox_tiny",
        )
        .templates["yolox"]
        .dimensions
    )
    assert (
        dims["per_item_lrate"].low,
        dims["per_item_lrate"].high,
        dims["per_item_lrate"].log,
    ) == (1e-5, 1e-3, True)
    assert (dims["image_size"].low, dims["image_size"].high, dims["image_size"].step) == (
        320,
        640,
        32,
    )
    assert (dims["frozen_stages"].low, dims["frozen_stages"].high, dims["frozen_stages"].step) == (
        0,
        2,
        1,
    )
    assert dims["base_model"].choices == ("yolox_nano", "yolox_tiny")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image_size=320:640:48", "multiple of 32"),
        ("image_size=320:640:96", "does not divide the range; the maximum would be 608 or 704"),
        ("image_size=300:640", "the nearest are 288 and 320"),
        ("image_size=320:4096", "from 64 to 2048"),
        ("image_size=640:320", "must be below"),
        ("image_size=320,640:640", "width,height has no range"),
        ("frozen_stages=0:9", "from 0 to 4, got 9"),
        ("frozen_stages=1:3:0.5", "multiple of 1"),
        ("frozen_stages=0:2:0", "above 0"),
        ("image_size=320:640:inf", "above 0 and finite, got inf"),
        ("per_item_lrate=1e-5:1e-3:1e-40", "must be at least 9.9e-13, got 1e-40"),
        ("max_aspect_ratio=1:2:log", "a hyperparameter without steps"),
        ("per_item_lrate=auto:1e-3", "must have numbers at both ends of a range, got auto"),
        ("random_resize_lower=none:640", "must have numbers at both ends of a range, got none"),
        ("frozen_stages=0:2:log", "log scale needs a minimum above 0"),
        ("frozen_stages=0:2:two", "a number or log, got 'two'"),
        ("per_item_lrate=0:1e-3:log", "log scale needs a minimum above 0"),
        ("per_item_lrate=nan:1e-3", "from 0 to 1"),
        ("per_item_lrate=1e-5:1e-4:1e-3:log", "too many parts"),
        ("max_aspect_ratio=1:2:0.3", "does not divide the range; the maximum would be 1.9 or 2.2"),
        ("batch_size=4", "a single value is fixed by --batch_size"),
        ("batch_size=4|4", "one value only"),
        ("base_model=yolox_nano:yolox_tiny", "write base_model=yolox_nano|yolox_tiny"),
        ("base_model=yolox_nano|yolox_huge", "got 'yolox_huge'"),
        ("per_item_lrat=1e-5:1e-3", "did you mean per_item_lrate?"),
        ("seed=0:9", "unknown parameter seed"),
        ("image_size=320:640 image_size=64:128", "more than once"),
        ("load_from", "no range that could be searched by default"),
        ("random_resize_lower=320|800", "must not be above"),
    ],
)
def test_what_cannot_be_searched_is_refused(text: str, words: str) -> None:
    assert words in refused("yolox", text)


def test_all_problems_are_told_at_once() -> None:
    told = refused("yolox", "image_size=300:640 batch_size=0:4 nothing=1:2", num_epochs=0)
    assert all(word in told for word in ("image_size", "batch_size", "nothing"))
    assert "image_size is both fixed and in the space" in refused(
        "yolox", "image_size=320:640", image_size=320
    )
    assert "num_epochs must be" in refused("yolox", None, num_epochs=0)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_default_space_of_every_template(name: str) -> None:
    dims = of(name).templates[name].dimensions
    assert dims["per_item_lrate"].log and {"frozen_stages"} < dims.keys()
    first = of(name).make_first_trial(name)["per_item_lrate"]
    assert dims["per_item_lrate"].low < first < dims["per_item_lrate"].high
    params = get_params(TEMPLATES[name].params)
    assert {
        name for name in ("use_focal_loss", "use_perclass_regression") if name in params
    } <= dims.keys()
    assert not list(of(name).describe_moved_defaults())


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("seed", range(3))
def test_every_suggestion_is_valid(name: str, seed: int) -> None:
    """Whole ranges of whatever has one, through Optuna's own sampler."""
    params = get_params(TEMPLATES[name].params)
    ranged = [
        param.name
        for param in params.values()
        if param.type in ("int", "bool", "choice") or (param.type == "float" and param.step)
    ]
    ranged = [
        word
        for word in ranged
        if word not in ("keep_aspect_ratio", "pretrained_weights", "pretrain_base_data")
    ]
    searched = of(
        name,
        " ".join(
            [
                *(word for word in ranged if len(params[word].choices or "12") > 1),
                "per_item_lrate=1e-6:1",
            ]
        ),
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(30):
        template, values = searched.suggest(study.ask())
        assert build(template.params, values)


def test_a_names_default_range_and_the_whole_one() -> None:
    assert str(parse_dimension(YOLOX["per_item_lrate"])) == "2e-05:0.002:log"
    assert str(parse_dimension(YOLOX["per_item_lrate"], "1e-4:1e-3")) == "0.0001:0.001:log"
    assert str(parse_dimension(YOLOX["per_item_lrate"], "1e-4:5e-4:1e-4")) == "0.0001:0.0005:0.0001"
    assert str(parse_dimension(YOLOX["batch_size"])) == "1:32:1"
    assert str(parse_dimension(YOLOX["keep_aspect_ratio"])) == "true|false"
    assert parse_dimension(YOLOX["image_size"], "640|800,512").choices == ("640", "800,512")


def test_a_range_without_weights_is_left_out_of_the_default_space_only() -> None:
    assert (
        "frozen_stages"
        not in of("yolox", None, pretrained_weights="none").templates["yolox"].dimensions
    )
    assert "would freeze random weights" in refused(
        "yolox", "frozen_stages=0:2", pretrained_weights="none"
    )


def test_several_templates_have_ranges_of_their_own() -> None:
    searched = of(
        "yolox,ssd",
        "per_item_lrate ssd.image_size=192:320:32",
        **{"yolox.base_model": "yolox_nano", "batch_size": 4},
    )
    assert searched.templates["yolox"].dimensions.keys() == {
        "per_item_lrate"
    } and searched.templates["ssd"].dimensions.keys() == {
        "per_item_lrate",
        "image_size",
    }
    assert searched.templates["yolox"].fixed == {
        "base_model": "yolox_nano",
        "batch_size": 4,
    } and searched.templates["ssd"].fixed == {"batch_size": 4}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        template, values = searched.suggest(trial)
        seen.add(template.name)
        assert values.keys() <= get_params(template.params).keys()
        assert trial.params.keys() - {"template"} == {
            f"{template.name}.{name}" for name in searched.templates[template.name].dimensions
        }
    assert seen == {"yolox", "ssd"}
    assert "ssd: base_model must be" in refused("yolox,ssd", None, base_model="yolox_nano")
    assert "unknown parameter yolof.batch_size" in refused("yolox,ssd", "yolof.batch_size=4:8")


def test_defaults_outside_the_space_are_moved_to_its_edge_and_told() -> None:
    searched = of("yolox", "image_size=320:416:32 base_model=yolox_nano|yolox_tiny")
    assert searched.make_first_trial("yolox") == {"image_size": 416, "base_model": "yolox_nano"}
    told = list(searched.describe_moved_defaults())
    assert (
        "yolox's default image_size=640 lies outside 320:416:32: its first trial has 416" in told
        and len(told) == 2
    )


def test_the_digest_changes_with_the_space_and_the_fixed_values_alone() -> None:
    assert of("yolox").digest == of("yolox").digest
    assert (
        len(
            {
                of("yolox").digest,
                of("yolox", "per_item_lrate").digest,
                of("yolox", None, batch_size=4).digest,
                of("ssd").digest,
            }
        )
        == 4
    )


def test_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("per_item_lrate: 1e-5:1e-3:log\nimage_size: [320, 416]\nfrozen_stages:\n")
    assert (
        str(of("yolox", str(path)))
        == "yolox: per_item_lrate=1e-05:0.001:log image_size=320|416 frozen_stages=0:2:1"
    )
    path.write_text("- a list")
    assert "must have a line" in refused("yolox", str(path))
    path.write_text("a: [")
    assert "is not YAML" in refused("yolox", str(path))
    path.write_bytes(b"\xff\xfe\xfa")
    assert "is not YAML" in refused("yolox", str(path))
    with pytest.raises(NotFoundError):
        of("yolox", str(tmp_path / "none.yaml"))


def test_nearest_is_on_the_grid() -> None:
    assert Dimension(YOLOX["image_size"], 320, 640, 64).find_nearest((500,)) == 512
    assert Dimension(YOLOX["per_item_lrate"], 1e-5, 1e-3, log=True).find_nearest(0.5) == 1e-3


def plan_first(searched: Space, template: str) -> CommonParams:
    """The hyperparameters of the template's first trial, as a worker has them."""
    plan = Plan(searched, RunOptions(), SweepOptions(), "0123456789abcdef", "sqlite:///sweeps.db")
    return plan.get_first_params(TEMPLATES[template])


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_first_trial_has_the_rate_of_its_base_model(template: str) -> None:
    for name, base_model in TEMPLATES[template].base_models.items():
        if name not in (get_params(TEMPLATES[template].params)["base_model"].choices or ()):
            continue
        searched = of(template, "per_item_lrate=1e-6:1", base_model=name)
        rate = base_model.recipe.per_item_lrate
        assert searched.make_first_trial(template) == {"per_item_lrate": rate}
        assert plan_first(searched, template).per_item_lrate == rate
        assert not list(searched.describe_moved_defaults())


@pytest.mark.parametrize("image_size", [300, 320])
def test_the_rate_of_ssd300_at_its_published_size_and_another(image_size: int) -> None:
    searched = of("ssd", None, base_model="ssd300_vgg16", image_size=image_size)
    assert searched.make_first_trial("ssd") == {"per_item_lrate": 0.002 / 64, "frozen_stages": 0}
    assert plan_first(searched, "ssd").image_size == (image_size,)
    assert not list(searched.describe_moved_defaults())


def test_the_rate_is_that_of_a_base_model_which_is_searched_too() -> None:
    searched = of("ssd", "per_item_lrate base_model=ssd300_vgg16|ssd512_vgg16")
    first = {"per_item_lrate": 0.002 / 64, "base_model": "ssd300_vgg16"}
    assert searched.make_first_trial("ssd") == first
    both = of("yolox,ssd", "per_item_lrate", **{"ssd.base_model": "ssd512_vgg16"})
    assert both.make_first_trial("ssd") == {"ssd.per_item_lrate": 0.002 / 64, "template": "ssd"}
    assert both.make_first_trial("yolox") == {
        "yolox.per_item_lrate": 0.01 / 64,
        "template": "yolox",
    }


def test_a_rate_outside_the_space_is_moved_to_its_edge_and_told() -> None:
    searched = of("yolox", "per_item_lrate=1e-3:1e-2:log")
    assert searched.make_first_trial("yolox") == {"per_item_lrate": 1e-3}
    (told,) = searched.describe_moved_defaults()
    assert told.startswith("yolox's default per_item_lrate=auto (0.00015625) lies outside 0.001:")
    assert told.endswith("its first trial has 0.001")


def test_an_empty_default_among_the_choices_is_left_as_it_is() -> None:
    searched = of("yolox", "per_item_lrate=1e-3|auto random_resize_lower=320|none")
    assert searched.make_first_trial("yolox") == {
        "per_item_lrate": "auto",
        "random_resize_lower": "none",
    }
    first = plan_first(searched, "yolox")
    assert (first.per_item_lrate, first.random_resize_lower) == (None, None)
    assert not list(searched.describe_moved_defaults())


@pytest.mark.parametrize(
    ("text", "fixed", "first"),
    [
        ("random_resize_lower=320:640:32", {}, [640]),
        ("random_resize_lower=320:480:32", {}, [480]),
        ("random_resize_upper=640:960:32", {}, [640]),
        ("random_resize_upper=704:960:32", {}, [704]),
        ("random_resize_lower=320:640:32 random_resize_upper=640:960:32", {}, [640, 640]),
        ("random_resize_lower=320:640:32", {"image_size": 800}, [640]),
        ("random_resize_lower=320:480:32 image_size=480:800:32", {}, [480, 640]),
        ("random_resize_upper=640:800:32 image_size=320:640:64", {}, [640, 640]),
        ("random_resize_lower=320:480:32 image_size=512:576:32", {}, [480, 576]),
        ("image_size=480:640:32", {"random_resize_lower": 480, "random_resize_upper": 480}, [640]),
    ],
)
def test_random_sizes_begin_at_the_image_size(text: str, fixed: Any, first: list[int]) -> None:
    searched = of("yolox", text, **fixed)
    assert list(searched.make_first_trial("yolox").values()) == first
    assert plan_first(searched, "yolox").find_problems() == []


def test_a_random_size_is_moved_only_from_where_the_image_size_is() -> None:
    assert not list(of("yolox", "random_resize_lower=320:640:32").describe_moved_defaults())
    (told,) = of("faster_rcnn", "random_resize_lower=320:640:32").describe_moved_defaults()
    assert told.startswith("faster_rcnn's default random_resize_lower=none (800) lies outside")
    assert told.endswith("its first trial has 640")


@pytest.mark.parametrize(
    ("template", "text", "fixed", "begin", "rule"),
    [
        (
            "ssd",
            "base_model=ssd300_vgg16|ssdlite_mobilenetv2 image_size=64:320:64",
            {},
            "space: ssd with base_model=ssd300_vgg16 image_size=64 cannot be trained: ",
            "ssd300_vgg16 needs an image_size",
        ),
        (
            "ssd",
            "random_resize_lower=320:640:32",
            {},
            "space: ssd with random_resize_lower=640 cannot be trained: ",
            "random_resize_lower=640 must not be above random_resize_upper=320",
        ),
        (
            "yolox",
            "random_resize_lower=320:640:32 random_resize_upper=480:800:32 num_epochs=2:9",
            {},
            "space: yolox with random_resize_lower=640 random_resize_upper=480 cannot be trained: ",
            "random_resize_lower=640 must not be above random_resize_upper=480",
        ),
        (
            "yolox",
            "random_resize_upper=320:640:32 image_size=320:416:32",
            {},
            "space: yolox with image_size=416 random_resize_upper=320 cannot be trained: ",
            "random_resize_lower=416 must not be above random_resize_upper=320",
        ),
        (
            "ssd",
            "image_size=300|320 base_model=ssd300_vgg16|ssd512_vgg16",
            {},
            "space: ssd with base_model=ssd512_vgg16 image_size=300 cannot be trained: ",
            "image_size=300 is the published size of base_model=ssd300_vgg16 alone",
        ),
        (
            "faster_rcnn",
            "frozen_stages=0:2 pretrained_weights=coco|none base_model",
            {},
            "space: faster_rcnn with frozen_stages=2 pretrained_weights=none cannot be trained: ",
            "frozen_stages=2 with pretrained_weights=none would freeze random weights",
        ),
        (
            "yolox",
            "keep_aspect_ratio image_size=640|800,512",
            {},
            "space: yolox with image_size=800,512 keep_aspect_ratio=true cannot be trained: ",
            "width,height (in image_size, random_resize_lower or random_resize_upper)",
        ),
        (
            "yolox",
            "continue_from_eid=none|0123 per_item_lrate",
            {"load_from": "coco"},
            "space: yolox with continue_from_eid=0123 cannot be trained: ",
            "continue_from_eid and load_from both say where to start",
        ),
        (
            "ssd",
            "per_item_lrate",
            {"image_size": 300},
            "ssd: ",
            "image_size=300 is the published size of base_model=ssd300_vgg16 alone",
        ),
    ],
)
def test_a_combination_is_refused_with_the_values_to_blame(
    template: str,
    text: str,
    fixed: Any,
    begin: str,
    rule: str,
) -> None:
    assert refused(template, text, **fixed).startswith(begin + rule)


def test_a_fixed_value_may_need_what_the_space_has() -> None:
    searched = of("ssd", "image_size=480:640:32", random_resize_lower=480)
    assert plan_first(searched, "ssd").image_size == (480,)
    of("yolof", "load_from=coco|runs:/0123/model", pretrained_weights="none")
    of("ssd", "image_size=300|320|416", base_model="ssd300_vgg16")


def test_a_single_choice_is_not_searched() -> None:
    told = refused("yolof", "base_model")
    assert "base_model has one value only, resnet50: leave it out of the space" in told


def test_a_range_does_not_begin_off_the_grid() -> None:
    told = refused("ssd", "image_size=300:620:32", base_model="ssd300_vgg16")
    assert "must have multiples of 32 at both ends of a range, got 300" in told


def test_many_choices_are_checked_quickly_and_told_briefly() -> None:
    singles = [str(side) for side in range(64, 2049, 32)]
    sizes = "|".join(singles + [f"{side},{2112 - side}" for side in range(64, 2049, 32)])
    words = [f"random_resize_{end}=none|{sizes}" for end in ("lower", "upper")]
    words += [f"image_size={sizes}", "base_model", "keep_aspect_ratio", "frozen_stages=0:4"]
    words += ["pretrained_weights", "pretrain_base_data", "load_from=none|coco|a|b"]
    begun = time.monotonic()
    told = refused("msc10", " ".join(words)).splitlines()
    assert time.monotonic() - begun < 5
    assert len(told) == 6 and "more such problems with other values" in told[-1]


def draw(param: Param, drawn: random.Random) -> Any:
    """One of a few values of a hyperparameter, such as often break a rule."""
    if param.type == "size":
        sizes = [(64,), (288,), (320,), (320, 64), (64, 320), (320, 320)]
        sizes += [(side,) for side in param.also]
        return drawn.choice([*sizes, *([None] if param.optional else [])])
    if param.type == "text":
        return drawn.choice([None, "coco", "0123"])
    if param.type == "numbers":
        return drawn.choice([param.default, (0.5, 2.0)])
    choices = {"bool": (True, False), "choice": param.choices}.get(param.type)
    numbers = (param.minimum, param.maximum, param.default)
    return param.parse(drawn.choice(choices or numbers))


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_rule_looks_at_one_group_of_parameters(template: str) -> None:
    cls = TEMPLATES[template].params
    params = get_params(cls)
    first, second = cls.RULE_GROUPS
    others = [name for name in params if name not in first + second]
    drawn = random.Random(0)
    broken = 0
    for _ in range(500):
        values = {name: draw(param, drawn) for name, param in params.items()}
        drawn_params = cls(**values)
        problems = drawn_params.find_problems()
        broken += bool(problems)

        for name in others:
            other = replace(drawn_params, **{name: draw(params[name], drawn)})
            assert other.find_problems() == problems, name

        # The defaults of one group break no rule, so what is left comes from the other.
        apart = []
        for group in (first, second):
            apart += cls(**{name: values[name] for name in group if name in values}).find_problems()
        assert sorted(apart) == sorted(problems)
    assert broken > 50


def draw_dimension(param: Param, drawn: random.Random) -> str:
    """A small range or a few choices, as text."""
    if param.type in ("int", "size") and drawn.random() < 0.5:
        step = int(param.step or 1)
        low = 256 + step * drawn.randrange(3) if param.type == "size" else drawn.randrange(2)
        return f"{low}:{low + step * drawn.randint(1, 3)}:{step}"
    values = {param.format(draw(param, drawn)) for _ in range(3)}
    return "|".join(sorted(values))


def all_values(dim: Dimension) -> list[Any]:
    """Each typed value of a dimension, unlike its corners."""
    if dim.choices:
        return list(dim.ends)
    step = int(dim.step or 1)
    numbers = range(int(dim.low), int(dim.high) + step, step)
    return [dim.param.parse(number) for number in numbers]


@pytest.mark.parametrize("template", ["yolox", "ssd", "msc10"])
def test_a_space_is_refused_exactly_where_some_trial_could_not_be_built(template: str) -> None:
    """The corners of a space are as good as all its values."""
    cls = TEMPLATES[template].params
    params = get_params(cls)
    combined = [name for group in cls.RULE_GROUPS for name in group if name in params]
    drawn = random.Random(0)
    counts = {True: 0, False: 0}
    for _ in range(150):
        chosen = drawn.sample(combined, drawn.randint(1, 3))
        texts = {name: draw_dimension(params[name], drawn) for name in chosen}
        texts = {name: text for name, text in texts.items() if "|" in text or ":" in text}
        rest = [name for name in combined if name not in chosen]
        fixed = {name: draw(params[name], drawn) for name in drawn.sample(rest, 1)}
        if not texts:
            continue

        dims = {name: parse_dimension(params[name], text) for name, text in texts.items()}
        fine = True
        for values in product(*(all_values(dim) for dim in dims.values())):
            typed = dict(zip(dims, values, strict=True))
            fine = fine and not cls(**{**fixed, **typed}).find_problems()

        text = " ".join(f"{name}={text}" for name, text in texts.items())
        if fine:
            assert plan_first(of(template, text, **fixed), template).find_problems() == []
        else:
            assert refused(template, text, **fixed)
        counts[fine] += 1
    assert min(counts.values()) > 10, counts
