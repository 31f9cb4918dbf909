"""A space as text or as a YAML file, beside fixed values."""

from pathlib import Path

import pytest
from sweep_spaces import get_problems, make_space

from detreg.errors import NotFoundError
from detreg.params import get_params
from detreg.templates import TEMPLATES


def test_the_example_of_the_docs() -> None:
    text = (
        "per_item_lrate=1e-5:1e-3:log image_size=320:640:32 frozen_stages=0:2:1"
        " base_model=yolox_nano|yolox_tiny"
    )
    dimensions = make_space("yolox", text).templates["yolox"].dimensions

    rate = dimensions["per_item_lrate"]
    assert (rate.low, rate.high, rate.log) == (1e-5, 1e-3, True)
    size = dimensions["image_size"]
    assert (size.low, size.high, size.step) == (320, 640, 32)
    stages = dimensions["frozen_stages"]
    assert (stages.low, stages.high, stages.step) == (0, 2, 1)
    assert dimensions["base_model"].choices == ("yolox_nano", "yolox_tiny")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_default_space_of_every_template(name: str) -> None:
    space = make_space(name)
    dimensions = space.templates[name].dimensions
    rate = dimensions["per_item_lrate"]
    assert rate.log
    assert "frozen_stages" in dimensions

    params = get_params(TEMPLATES[name].params)
    for switch in ("use_focal_loss", "use_perclass_regression"):
        assert (switch in dimensions) == (switch in params)

    first = space.make_first_trial(name)["per_item_lrate"]
    assert isinstance(first, float)
    assert rate.low < first < rate.high
    assert not list(space.describe_moved_defaults())


def test_a_range_that_needs_weights_is_left_out_of_the_default_space_only() -> None:
    space = make_space("yolox", None, pretrained_weights="none")
    assert "frozen_stages" not in space.templates["yolox"].dimensions

    (problem,) = get_problems("yolox", "frozen_stages=0:2", pretrained_weights="none")
    assert "would freeze random weights" in problem


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("per_item_lrat=1e-5:1e-3", "unknown parameter per_item_lrat (did you mean per_item_lrate"),
        ("seed=0:9", "unknown parameter seed"),
        ("image_size=320:640 image_size=64:128", "the space names image_size more than once"),
        ("image_size=300:640", "space: yolox's image_size must be one integer"),
        ("image_size=640:320", "space: yolox's image_size=640:320: the minimum 640 must be below"),
        ("random_resize_lower=320|800", "must not be above"),
    ],
)
def test_what_cannot_be_searched_is_refused(text: str, reason: str) -> None:
    problems = get_problems("yolox", text)
    assert any(reason in problem for problem in problems), problems


def test_all_problems_are_reported_at_once() -> None:
    problems = get_problems("yolox", "image_size=300:640 batch_size=0:4 nothing=1:2", num_epochs=0)
    assert [problem.split(" must")[0] for problem in problems] == [
        "unknown parameter nothing",
        "space: yolox's image_size",
        "space: yolox's batch_size",
        "yolox: num_epochs",
    ]


def test_a_name_is_either_fixed_or_searched() -> None:
    problems = get_problems("yolox", "image_size=320:640", image_size=320)
    assert problems == ["image_size is both fixed and in the space: leave one out"]


def test_something_must_be_searched() -> None:
    (problem,) = get_problems("yolox", "", num_epochs=2)
    assert problem.startswith("nothing of yolox is searched: name something in space")


def test_several_templates_have_values_of_their_own() -> None:
    fixed = {"yolox.base_model": "yolox_nano", "batch_size": 4, "ssd.batch_size": 8}
    space = make_space("yolox,ssd", "per_item_lrate ssd.image_size=192:320:32", **fixed)
    assert list(space.templates["yolox"].dimensions) == ["per_item_lrate"]
    assert list(space.templates["ssd"].dimensions) == ["per_item_lrate", "image_size"]
    assert space.templates["yolox"].fixed == {"base_model": "yolox_nano", "batch_size": 4}
    assert space.templates["ssd"].fixed == {"batch_size": 8}

    problems = get_problems("yolox,ssd", None, base_model="yolox_nano")
    assert problems[0].startswith("ssd: base_model must be")
    problems = get_problems("yolox,ssd", "yolof.batch_size=4:8")
    assert problems[0].startswith("unknown parameter yolof.batch_size")


def test_a_yaml_file_is_a_space(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("per_item_lrate: 1e-5:1e-3:log\nimage_size: [320, 416]\nfrozen_stages:\n")
    space = make_space("yolox", str(path))
    searched = "per_item_lrate=1e-05:0.001:log image_size=320|416 frozen_stages=0:4:1"
    assert str(space) == f"yolox: {searched}"


def test_a_yaml_file_holds_text_and_not_numbers_in_base_60(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("batch_size: 8:24:8\n")
    assert str(make_space("yolox", str(path))) == "yolox: batch_size=8:24:8"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"- a list", "must have a line"),
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\xfa", "is not UTF-8"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_space_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    (problem,) = get_problems("yolox", str(path))
    assert reason in problem
    assert "\n" not in problem


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        make_space("yolox", str(tmp_path / "none.yaml"))
