"""What a sweep searches: read from text, refused with the reason, inside every template's own ranges."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from detreg.errors import NotFoundError, UsageError
from detreg.params import build, declared
from detreg.sweeps.space import Dimension, dimension, space
from detreg.templates import TEMPLATES

YOLOX = declared(TEMPLATES["yolox"].params)


def of(templates: str, text: str | None = None, **fixed: Any) -> Any:
    return space(tuple(TEMPLATES[name] for name in templates.split(",")), text, fixed)


def refused(templates: str, text: str | None = None, **fixed: Any) -> str:
    with pytest.raises(UsageError) as caught:
        of(templates, text, **fixed)
    return "\n".join(caught.value.problems)


def test_the_contracts_example() -> None:
    dims = of(
        "yolox", "per_item_lrate=1e-5:1e-3:log image_size=320:640:32 frozen_stages=0:2:1 base_model=yolox_nano|yolox_tiny"
    ).dimensions["yolox"]
    assert (dims["per_item_lrate"].low, dims["per_item_lrate"].high, dims["per_item_lrate"].log) == (1e-5, 1e-3, True)
    assert (dims["image_size"].low, dims["image_size"].high, dims["image_size"].step) == (320, 640, 32)
    assert (dims["frozen_stages"].low, dims["frozen_stages"].high, dims["frozen_stages"].step) == (0, 2, 1)
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
        ("frozen_stages=0:9", "from 0 to 4, not 9"),
        ("frozen_stages=1:3:0.5", "multiple of 1"),
        ("frozen_stages=0:2:0", "above 0"),
        ("frozen_stages=0:2:log", "log scale wants a minimum above 0"),
        ("frozen_stages=0:2:two", "a number or log, not 'two'"),
        ("per_item_lrate=0:1e-3:log", "log scale wants a minimum above 0"),
        ("per_item_lrate=nan:1e-3", "from 0 to 1"),
        ("per_item_lrate=1e-5:1e-4:1e-3:log", "too many parts"),
        ("max_aspect_ratio=1:2:0.3", "does not divide the range; the maximum would be 1.9 or 2.2"),
        ("batch_size=4", "a single value is fixed by --batch_size"),
        ("batch_size=4|4", "one value only"),
        ("base_model=yolox_nano:yolox_tiny", "write base_model=yolox_nano|yolox_tiny"),
        ("base_model=yolox_nano|yolox_huge", "not 'yolox_huge'"),
        ("per_item_lrat=1e-5:1e-3", "did you mean per_item_lrate?"),
        ("seed=0:9", "unknown parameter seed"),
        ("image_size=320:640 image_size=64:128", "more than once"),
        ("load_from", "no range of its own"),
        ("random_resize_lower=320|800", "must not be above"),
    ],
)
def test_what_cannot_be_searched_is_refused(text: str, words: str) -> None:
    assert words in refused("yolox", text)


def test_all_problems_are_told_at_once() -> None:
    told = refused("yolox", "image_size=300:640 batch_size=0:4 nothing=1:2", num_epochs=0)
    assert all(word in told for word in ("image_size", "batch_size", "nothing"))
    assert "image_size is both fixed and in the space" in refused("yolox", "image_size=320:640", image_size=320)
    assert "num_epochs must be" in refused("yolox", None, num_epochs=0)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_default_space_of_every_template(name: str) -> None:
    dims = of(name).dimensions[name]
    assert dims["per_item_lrate"].log and {"frozen_stages"} < dims.keys()
    default = declared(TEMPLATES[name].params)["per_item_lrate"].default
    assert dims["per_item_lrate"].low < default < dims["per_item_lrate"].high
    params = declared(TEMPLATES[name].params)
    assert {name for name in ("use_focal_loss", "use_perclass_regression") if name in params} <= dims.keys()
    assert not list(of(name).moved())


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("seed", range(3))
def test_every_suggestion_is_valid(name: str, seed: int) -> None:
    """Whole ranges of whatever has one, through Optuna's own sampler."""
    params = declared(TEMPLATES[name].params)
    ranged = [param.name for param in params.values() if param.type in ("int", "bool", "choice") or (param.type == "float" and param.step)]
    ranged = [word for word in ranged if word not in ("keep_aspect_ratio", "pretrained_weights", "pretrain_base_data")]
    searched = of(name, " ".join([*(word for word in ranged if len(params[word].choices or "12") > 1), "per_item_lrate=1e-6:1"]))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(30):
        template, values = searched.values(study.ask())
        assert build(template.params, values)


def test_a_names_default_range_and_the_whole_one() -> None:
    assert str(dimension(YOLOX["per_item_lrate"])) == "2e-05:0.002:log"
    assert str(dimension(YOLOX["per_item_lrate"], "1e-4:1e-3")) == "0.0001:0.001:log"
    assert str(dimension(YOLOX["per_item_lrate"], "1e-4:5e-4:1e-4")) == "0.0001:0.0005:0.0001"
    assert str(dimension(YOLOX["batch_size"])) == "1:32:1"
    assert str(dimension(YOLOX["keep_aspect_ratio"])) == "true|false"
    assert dimension(YOLOX["image_size"], "640|800,512").choices == ("640", "800,512")


def test_a_range_without_weights_is_left_out_of_the_default_space_only() -> None:
    assert "frozen_stages" not in of("yolox", None, pretrained_weights="none").dimensions["yolox"]
    assert "would freeze random weights" in refused("yolox", "frozen_stages=0:2", pretrained_weights="none")


def test_several_templates_have_ranges_of_their_own() -> None:
    searched = of("yolox,ssd", "per_item_lrate ssd.image_size=192:320:32", **{"yolox.base_model": "yolox_nano", "batch_size": 4})
    assert searched.dimensions["yolox"].keys() == {"per_item_lrate"} and searched.dimensions["ssd"].keys() == {
        "per_item_lrate",
        "image_size",
    }
    assert searched.fixed["yolox"] == {"base_model": "yolox_nano", "batch_size": 4} and searched.fixed["ssd"] == {"batch_size": 4}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        template, values = searched.values(trial)
        seen.add(template.name)
        assert values.keys() <= declared(template.params).keys()
        assert trial.params.keys() - {"template"} == {f"{template.name}.{name}" for name in searched.dimensions[template.name]}
    assert seen == {"yolox", "ssd"}
    assert "ssd: base_model must be" in refused("yolox,ssd", None, base_model="yolox_nano")
    assert "unknown parameter yolof.batch_size" in refused("yolox,ssd", "yolof.batch_size=4:8")


def test_defaults_outside_the_space_are_moved_to_its_edge_and_told() -> None:
    searched = of("yolox", "image_size=320:416:32 base_model=yolox_nano|yolox_tiny")
    assert searched.defaults("yolox") == {"image_size": 416, "base_model": "yolox_nano"}
    told = list(searched.moved())
    assert "yolox's default image_size=640 lies outside 320:416:32: its first trial has 416" in told and len(told) == 2


def test_the_digest_changes_with_the_space_and_the_fixed_values_alone() -> None:
    assert of("yolox").digest == of("yolox").digest
    assert len({of("yolox").digest, of("yolox", "per_item_lrate").digest, of("yolox", None, batch_size=4).digest, of("ssd").digest}) == 4


def test_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("per_item_lrate: 1e-5:1e-3:log\nimage_size: [320, 416]\nfrozen_stages:\n")
    assert str(of("yolox", str(path))) == "yolox: per_item_lrate=1e-05:0.001:log image_size=320|416 frozen_stages=0:2:1"
    path.write_text("- a list")
    assert "must have a line" in refused("yolox", str(path))
    path.write_text("a: [")
    assert "is not YAML" in refused("yolox", str(path))
    with pytest.raises(NotFoundError):
        of("yolox", str(tmp_path / "none.yaml"))


def test_nearest_is_on_the_grid() -> None:
    assert Dimension(YOLOX["image_size"], 320, 640, 64).nearest((500,)) == 512
    assert Dimension(YOLOX["per_item_lrate"], 1e-5, 1e-3, log=True).nearest(0.5) == 1e-3
