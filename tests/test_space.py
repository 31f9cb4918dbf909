"""What a sweep searches: valid values only, the templates' defaults first, the same digest."""

import optuna
import pytest
from sweep_spaces import get_first_params, make_space

from detreg.params import build, get_params
from detreg.sweeps.dimension import Dimension
from detreg.sweeps.space import Space, TemplateSpace
from detreg.templates import TEMPLATES

RATE = Dimension(get_params(TEMPLATES["yolox"].params)["per_item_lrate"], 1e-5, 1e-3, log=True)


def test_an_invalid_space_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="nothing must be a hyperparameter of yolox"):
        TemplateSpace("yolox", {"nothing": RATE}, {})
    with pytest.raises(ValueError, match="must be searched or fixed, not both"):
        TemplateSpace("yolox", {"per_item_lrate": RATE}, {"per_item_lrate": 1e-4})

    part = TemplateSpace("yolox", {"per_item_lrate": RATE}, {})
    with pytest.raises(ValueError, match="a space must have a template"):
        Space({})
    with pytest.raises(ValueError, match="the space of yolox must be under its name, got ssd"):
        Space({"ssd": part})
    with pytest.raises(ValueError, match="something of yolox must be searched"):
        Space({"yolox": TemplateSpace("yolox", {}, {"batch_size": 4})})


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("seed", range(3))
def test_every_suggestion_is_valid(name: str, seed: int) -> None:
    """Whole ranges of whatever has one, through Optuna's own sampler."""
    searched = ["per_item_lrate=1e-6:1"]
    for param in get_params(TEMPLATES[name].params).values():
        # Any value of these may break a rule with values of the others.
        if param.name in ("keep_aspect_ratio", "pretrained_weights", "pretrain_base_data"):
            continue
        has_range = param.type in ("int", "bool") or (param.type == "float" and param.step)
        has_choices = param.choices is not None and len(param.choices) > 1
        if has_range or has_choices:
            searched.append(param.name)

    space = make_space(name, " ".join(searched))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(30):
        template, values = space.suggest(study.ask())
        assert build(template.params, values)


def test_trials_of_several_templates_have_parameters_of_their_own() -> None:
    space = make_space("yolox,ssd", "per_item_lrate ssd.image_size=192:320:32")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = set()
    for _ in range(20):
        trial = study.ask()
        template, values = space.suggest(trial)
        suggested.add(template.name)

        names = list(space.templates[template.name].dimensions)
        assert list(values) == names
        keys = {f"{template.name}.{name}" for name in names}
        assert trial.params.keys() == keys | {"template"}
    assert suggested == {"yolox", "ssd"}


def test_defaults_outside_the_space_are_moved_to_its_edge_and_reported() -> None:
    space = make_space("yolox", "image_size=320:416:32 base_model=yolox_nano|yolox_tiny")
    assert space.make_first_trial("yolox") == {"image_size": 416, "base_model": "yolox_nano"}

    moved_size, moved_base_model = space.describe_moved_defaults()
    assert moved_size == (
        "yolox's default image_size=640 lies outside 320:416:32: its first trial has 416"
    )
    assert moved_base_model.endswith("its first trial has yolox_nano")


@pytest.mark.parametrize(
    ("templates", "text", "fixed", "digest"),
    [
        # The default space of that version.
        ("yolox", "per_item_lrate=2e-5:2e-3:log frozen_stages=0:2:1", {}, "6b7b0e88d02e"),
        (
            "yolox",
            "per_item_lrate=1e-5:1e-3:log image_size=320:640:32 frozen_stages=0:2"
            " base_model=yolox_nano|yolox_tiny",
            {"num_epochs": "30", "batch_size": 16},
            "0094cb6eb967",
        ),
        (
            "yolox,ssd",
            "yolox.per_item_lrate=2e-5:2e-3:log ssd.per_item_lrate=1e-5:1e-3:log"
            " ssd.image_size=192:320:32 max_aspect_ratio=1.1:1.9:0.2",
            {"yolox.base_model": "yolox_nano", "batch_size": 4, "load_from": None},
            "a9f13e9eb568",
        ),
    ],
)
def test_the_digest_is_that_of_earlier_versions(
    templates: str, text: str | None, fixed: dict[str, object], digest: str
) -> None:
    """Another digest is another study, so a sweep that was started before would be lost."""
    assert make_space(templates, text, **fixed).digest == digest


def test_the_digest_changes_with_the_space_and_the_fixed_values_alone() -> None:
    assert make_space("yolox").digest == make_space("yolox").digest
    spaces = [
        make_space("yolox"),
        make_space("yolox", "per_item_lrate"),
        make_space("yolox", None, batch_size=4),
        make_space("ssd"),
    ]
    assert len({space.digest for space in spaces}) == 4


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_first_trial_has_the_rate_of_its_base_model(template: str) -> None:
    choices = get_params(TEMPLATES[template].params)["base_model"].choices or ()
    for name, base_model in TEMPLATES[template].base_models.items():
        if name not in choices:
            continue
        space = make_space(template, "per_item_lrate=1e-6:1", base_model=name)
        # Four times the published rate with yolox, whose recipe for few images is another one.
        rate = base_model.recipe.per_item_lrate * (4 if template == "yolox" else 1)
        assert space.make_first_trial(template) == {"per_item_lrate": rate}
        assert get_first_params(space, template).per_item_lrate == rate
        assert not list(space.describe_moved_defaults())


@pytest.mark.parametrize("image_size", [300, 320])
def test_the_rate_of_ssd300_at_its_published_size_and_another(image_size: int) -> None:
    space = make_space("ssd", None, base_model="ssd300_vgg16", image_size=image_size)
    assert space.make_first_trial("ssd") == {"per_item_lrate": 0.002 / 64, "frozen_stages": 0}
    assert get_first_params(space, "ssd").image_size == (image_size,)
    assert not list(space.describe_moved_defaults())


def test_the_rate_is_that_of_a_base_model_which_is_searched_too() -> None:
    space = make_space("ssd", "per_item_lrate base_model=ssd300_vgg16|ssd512_vgg16")
    first = {"per_item_lrate": 0.002 / 64, "base_model": "ssd300_vgg16"}
    assert space.make_first_trial("ssd") == first

    both = make_space("yolox,ssd", "per_item_lrate", **{"ssd.base_model": "ssd512_vgg16"})
    first_ssd = {"ssd.per_item_lrate": 0.002 / 64, "template": "ssd"}
    assert both.make_first_trial("ssd") == first_ssd
    first_yolox = {"yolox.per_item_lrate": 4 * 0.01 / 64, "template": "yolox"}
    assert both.make_first_trial("yolox") == first_yolox


def test_a_rate_outside_the_space_is_moved_to_its_edge_and_reported() -> None:
    space = make_space("yolox", "per_item_lrate=1e-3:1e-2:log")
    assert space.make_first_trial("yolox") == {"per_item_lrate": 1e-3}
    (moved,) = space.describe_moved_defaults()
    assert moved.startswith("yolox's default per_item_lrate=auto (0.000625) lies outside 0.001:")
    assert moved.endswith("its first trial has 0.001")


def test_an_empty_default_among_the_choices_is_left_as_it_is() -> None:
    space = make_space("yolox", "per_item_lrate=1e-3|auto random_resize_lower=320|none")
    first = {"per_item_lrate": "auto", "random_resize_lower": "none"}
    assert space.make_first_trial("yolox") == first

    params = get_first_params(space, "yolox")
    assert (params.per_item_lrate, params.random_resize_lower) == (None, None)
    assert not list(space.describe_moved_defaults())


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
def test_random_sizes_begin_at_the_image_size(
    text: str, fixed: dict[str, object], first: list[int]
) -> None:
    space = make_space("yolox", text, **fixed)
    assert list(space.make_first_trial("yolox").values()) == first
    assert get_first_params(space, "yolox").find_problems() == []


def test_a_random_size_is_moved_only_from_where_the_image_size_is() -> None:
    yolox = make_space("yolox", "random_resize_lower=320:640:32")
    assert not list(yolox.describe_moved_defaults())

    faster_rcnn = make_space("faster_rcnn", "random_resize_lower=320:640:32")
    (moved,) = faster_rcnn.describe_moved_defaults()
    assert moved.startswith("faster_rcnn's default random_resize_lower=none (800) lies outside")
    assert moved.endswith("its first trial has 640")
