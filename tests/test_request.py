"""What the user asks of a sweep: valid once made, and refused with every problem at once."""

import pytest

from detreg.errors import UsageError
from detreg.options import RunOptions, SweepOptions
from detreg.sweeps.request import SweepRequest, make_request, parse_templates
from detreg.sweeps.space_text import parse_space


def test_templates_are_parsed_once_each_and_in_order() -> None:
    templates = parse_templates("ssd, MMDetection_YOLOX,yolox")
    assert [template.name for template in templates] == ["ssd", "yolox"]
    with pytest.raises(UsageError, match="unknown template yolo_x"):
        parse_templates("ssd,yolo_x")


def test_values_are_sorted_into_options_ranges_and_fixed_values() -> None:
    values = {"seed": "3", "trials": 5, "budget": "1h30m", "space": "per_item_lrate"}
    request = make_request(parse_templates("yolox"), values | {"num_epochs": "12"})
    assert request.options == RunOptions(seed=3)
    assert request.sweep == SweepOptions(trials=5, budget="1h30m", space="per_item_lrate")
    assert request.budget_seconds == 5400
    part = request.space.templates["yolox"]
    assert list(part.dimensions) == ["per_item_lrate"]
    assert part.fixed == {"num_epochs": 12}


def test_an_invalid_request_cannot_be_made() -> None:
    space = parse_space(parse_templates("yolox"), None, {})
    message = "budget must be a duration such as 90m, 2h or 1h30m, got 'two hours'"
    with pytest.raises(UsageError, match=message):
        SweepRequest(space, RunOptions(), SweepOptions(budget="two hours"))


def test_every_problem_is_reported_at_once() -> None:
    values = {"trials": 0, "seed": -1, "nothing": 3, "num_epochs": 0}
    with pytest.raises(UsageError) as caught:
        make_request(parse_templates("yolox"), values)
    names = [problem.split(" must be")[0] for problem in caught.value.problems]
    assert names == ["seed", "trials", "unknown parameter nothing", "yolox: num_epochs"]


def test_a_sweep_is_not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        make_request(parse_templates("yolox"), {})
