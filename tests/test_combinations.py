"""Combinations of a space's values: refused exactly where some trial could not be trained."""

import random
import time
from collections.abc import Callable
from itertools import product

import pytest
from sweep_spaces import get_first_params, get_problems, make_space

from detreg.params import Param, Value, get_params
from detreg.sweeps.dimension import Dimension
from detreg.sweeps.dimension_text import parse_dimension
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams


@pytest.mark.parametrize(
    ("template", "text", "fixed", "blamed", "rule"),
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
    template: str, text: str, fixed: dict[str, object], blamed: str, rule: str
) -> None:
    assert get_problems(template, text, **fixed)[0].startswith(blamed + rule)


def test_a_fixed_value_may_need_what_the_space_has() -> None:
    space = make_space("ssd", "image_size=480:640:32", random_resize_lower=480)
    assert get_first_params(space, "ssd").image_size == (480,)
    make_space("yolof", "load_from=coco|runs:/0123/model", pretrained_weights="none")
    make_space("ssd", "image_size=300|320|416", base_model="ssd300_vgg16")


def test_many_choices_are_checked_quickly_and_reported_briefly() -> None:
    sides = range(64, 2049, 32)
    sizes = [str(side) for side in sides] + [f"{side},{2112 - side}" for side in sides]
    choices = "|".join(sizes)
    words = [
        f"random_resize_lower=none|{choices}",
        f"random_resize_upper=none|{choices}",
        f"image_size={choices}",
        "base_model keep_aspect_ratio frozen_stages=0:4 pretrained_weights pretrain_base_data",
        "load_from=none|coco|a|b",
    ]

    # All combinations of these would be more than two million.
    begun = time.process_time()
    problems = get_problems("msc10", " ".join(words))
    assert time.process_time() - begun < 5
    assert len(problems) == 6
    assert "more such problems with other values" in problems[-1]


def draw_value(param: Param, rng: random.Random) -> Value:
    """Return one of a few values of a hyperparameter, such as often break a rule."""
    values: list[Value]
    match param.type:
        case "size":
            values = [(64,), (288,), (320,), (320, 64), (64, 320), (320, 320)]
            values += [(side,) for side in param.also]
            values += [None] if param.optional else []
        case "text":
            values = [None, "coco", "0123"]
        case "numbers":
            values = [param.default, (0.5, 2.0)]
        case "bool":
            values = [True, False]
        case "choice":
            values = list(param.choices or ())
        case _:
            values = [param.minimum, param.maximum, param.default]
    return param.parse(rng.choice(values))


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_rule_looks_at_one_group_of_parameters(template: str) -> None:
    make_params: Callable[..., CommonParams] = TEMPLATES[template].params
    params = get_params(TEMPLATES[template].params)
    first_group, second_group = TEMPLATES[template].params.RULE_GROUPS
    others = [name for name in params if name not in first_group + second_group]
    rng = random.Random(0)
    num_broken = 0
    for _ in range(500):
        values = {name: draw_value(param, rng) for name, param in params.items()}
        drawn = make_params(**values)
        problems = drawn.find_problems()
        num_broken += bool(problems)

        for name in others:
            changed = make_params(**values | {name: draw_value(params[name], rng)})
            assert changed.find_problems() == problems, name

        # The defaults of one group break no rule, so what is left comes from the other.
        problems_of_groups = []
        for group in (first_group, second_group):
            values_of_group = {name: values[name] for name in group if name in values}
            problems_of_groups += make_params(**values_of_group).find_problems()
        assert sorted(problems_of_groups) == sorted(problems)
    assert num_broken > 50


def draw_dimension(param: Param, rng: random.Random) -> str:
    """Return a small range or a few choices as text; a single value is neither."""
    if param.type in ("int", "size") and rng.random() < 0.5:
        step = int(param.step or 1)
        low = 256 + step * rng.randrange(3) if param.type == "size" else rng.randrange(2)
        return f"{low}:{low + step * rng.randint(1, 3)}:{step}"
    values = {param.format(draw_value(param, rng)) for _ in range(3)}
    return "|".join(sorted(values))


def list_all_values(dimension: Dimension) -> list[Value]:
    """Return each typed value of a dimension, not only the outermost ones."""
    if dimension.choices:
        return list(dimension.ends)
    step = int(dimension.step or 1)
    numbers = range(int(dimension.low), int(dimension.high) + step, step)
    return [dimension.param.parse(number) for number in numbers]


def can_train_all(template: str, texts: dict[str, str], fixed: dict[str, Value]) -> bool:
    """Return whether every combination of the values can be trained, by trying them all."""
    make_params: Callable[..., CommonParams] = TEMPLATES[template].params
    params = get_params(TEMPLATES[template].params)
    dimensions = [parse_dimension(params[name], text) for name, text in texts.items()]
    for combination in product(*(list_all_values(dimension) for dimension in dimensions)):
        values = fixed | dict(zip(texts, combination, strict=True))
        if make_params(**values).find_problems():
            return False
    return True


@pytest.mark.parametrize("template", ["yolox", "ssd", "msc10"])
def test_a_space_is_refused_exactly_where_some_trial_could_not_be_built(template: str) -> None:
    """The outermost values of a space are as good as all its values."""
    params = get_params(TEMPLATES[template].params)
    groups = TEMPLATES[template].params.RULE_GROUPS
    names = [name for group in groups for name in group if name in params]
    rng = random.Random(0)
    counts = {True: 0, False: 0}
    for _ in range(150):
        searched = rng.sample(names, rng.randint(1, 3))
        drawn = {name: draw_dimension(params[name], rng) for name in searched}
        texts = {name: text for name, text in drawn.items() if "|" in text or ":" in text}
        rest = [name for name in names if name not in searched]
        fixed = {name: draw_value(params[name], rng) for name in rng.sample(rest, 1)}
        if not texts:
            continue

        text = " ".join(f"{name}={text}" for name, text in texts.items())
        is_valid = can_train_all(template, texts, fixed)
        if is_valid:
            space = make_space(template, text, **fixed)
            assert get_first_params(space, template).find_problems() == []
        else:
            assert get_problems(template, text, **fixed)
        counts[is_valid] += 1
    assert min(counts.values()) > 10, counts
