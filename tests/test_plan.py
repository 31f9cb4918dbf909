"""What a sweep will do: valid once made, and named alike by everyone who asks for the same."""

import pytest

from detreg.options import RunOptions
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.request import make_request, parse_templates

DATASET_DIGEST = "0123456789abcdef"
STORAGE = "sqlite:///sweeps.db"


def plan_sweep(templates: str, **values: object) -> Plan:
    request = make_request(parse_templates(templates), values)
    return make_plan(request, DATASET_DIGEST, STORAGE)


@pytest.mark.parametrize(
    ("templates", "values", "name"),
    [
        (
            "yolox",
            {
                "data": "/x",
                "seed": 3,
                "num_epochs": 12,
                "image_size": "320",
                "space": "per_item_lrate=2e-5:2e-3:log frozen_stages=0:2:1",
            },
            "yolox-01234567-f2684150",
        ),
        (
            "yolox,ssd",
            {
                "sampler": "random",
                "pruner": "median",
                "patience": 4,
                "amp": True,
                "space": "yolox.per_item_lrate=2e-5:2e-3:log "
                "ssd.per_item_lrate=1e-5:1e-3:log ssd.image_size=192:320:32",
                "batch_size": 4,
            },
            "yolox+ssd-01234567-5f53a059",
        ),
        (
            "yolox",
            {
                "sampler": "random",
                "pruner": "median",
                "patience": 4,
                "amp": True,
                "space": "per_item_lrate=2e-5:2e-3:log max_aspect_ratio=1.1:1.9:0.2"
                " keep_aspect_ratio base_model=yolox_nano|yolox_tiny",
                "load_from": "coco",
            },
            "yolox-01234567-a1af02a0",
        ),
    ],
)
def test_a_study_of_an_earlier_version_is_found_again(
    templates: str, values: dict[str, object], name: str
) -> None:
    """The names are literals of detreg 0.1: they may not change, or started sweeps are lost.

    That version trained as published.
    """
    assert plan_sweep(templates, **values, recipe="published").name == name
    assert plan_sweep(templates, **values).name != name


def test_another_precision_is_another_study() -> None:
    """But for auto, which an earlier version's command is now: its study says how it trained."""
    names = [plan_sweep("yolox", precision=value).name for value in ("fp32", "bf16", "fp16")]
    assert len({plan_sweep("yolox").name, *names}) == 4
    assert plan_sweep("yolox", amp="true").name == names[-1]


def test_all_trials_of_a_template_have_one_precision() -> None:
    plan = plan_sweep("yolox,ssd").with_precisions({"yolox": "bf16", "ssd": "fp32"})
    assert plan.get_options("yolox").precision == "bf16"
    assert plan.get_options("ssd", seed=5) == RunOptions(precision="fp32", seed=5)
    assert plan.name == plan_sweep("yolox,ssd").name


def test_masks_of_the_dataset_count_where_a_trial_may_learn_them() -> None:
    space = {"space": "masks=true|false per_item_lrate=1e-3:1e-2:log"}
    fixed = {"masks": "true", "space": "per_item_lrate=1e-3:1e-2:log"}
    for values, expected, metric in (
        (space, True, "mAP"),
        (fixed, True, "segm_mAP"),
        (fixed | {"metric": "mAP"}, True, "mAP"),
        ({}, False, "mAP"),
    ):
        plan = plan_sweep("faster_rcnn", **values)
        assert plan.space.may_have_masks == expected
        assert plan.metric == metric
        assert plan.get_options("faster_rcnn").metric == (metric if expected else "auto")

    request = make_request(parse_templates("faster_rcnn"), fixed)
    names = {make_plan(request, DATASET_DIGEST, STORAGE, digest).name for digest in ("1", "2", "")}
    assert len(names) == 3


def test_a_plan_without_a_dataset_or_a_database_cannot_be_made() -> None:
    request = make_request(parse_templates("yolox"), {})
    with pytest.raises(ValueError, match="dataset_digest must be that of a dataset, got ''"):
        make_plan(request, "", STORAGE)
    with pytest.raises(ValueError, match="storage must be the URL of a database, got ''"):
        make_plan(request, DATASET_DIGEST, "")
