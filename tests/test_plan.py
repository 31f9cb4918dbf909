"""What a sweep will do: valid once made, and named alike by everyone who asks for the same."""

import pytest

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
            {"data": "/x", "seed": 3, "num_epochs": 12, "image_size": "320"},
            "yolox-01234567-f2684150",
        ),
        (
            "yolox,ssd",
            {
                "sampler": "random",
                "pruner": "median",
                "patience": 4,
                "amp": True,
                "space": "per_item_lrate ssd.image_size=192:320:32",
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
                "space": "per_item_lrate max_aspect_ratio=1.1:1.9:0.2 keep_aspect_ratio"
                " base_model=yolox_nano|yolox_tiny",
                "load_from": "coco",
            },
            "yolox-01234567-a1af02a0",
        ),
    ],
)
def test_a_study_of_an_earlier_version_is_found_again(
    templates: str, values: dict[str, object], name: str
) -> None:
    """The names are literals of detreg 0.1: they may not change, or started sweeps are lost."""
    assert plan_sweep(templates, **values).name == name


def test_a_plan_without_a_dataset_or_a_database_cannot_be_made() -> None:
    request = make_request(parse_templates("yolox"), {})
    with pytest.raises(ValueError, match="dataset_digest must be that of a dataset, got ''"):
        make_plan(request, "", STORAGE)
    with pytest.raises(ValueError, match="storage must be the URL of a database, got ''"):
        make_plan(request, DATASET_DIGEST, "")
