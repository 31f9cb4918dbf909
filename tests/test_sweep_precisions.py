"""The precision of a sweep's trials is chosen once, by the command that creates the study."""

from pathlib import Path

import pytest

from detreg.sweeps import precisions, sweep
from detreg.sweeps import study as studies
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.pool import make_context
from detreg.sweeps.precisions import agree_on_precisions, prepare_precisions
from detreg.sweeps.request import make_request, parse_templates
from detreg.sweeps.storage import open_storage

CONTEXT = make_context()


def plan_sweep(folder: Path, **values: object) -> Plan:
    request = make_request(parse_templates("yolox,ssd"), values)
    return make_plan(request, "0123456789abcdef", f"sqlite:///{folder / 'sweeps.db'}")


def start_sweep(plan: Plan) -> Plan:
    """Do what `detreg sweep` does up to its first trial; return the plan of its workers."""
    storage = open_storage(plan.storage, plan.sweep.heartbeat)
    prepared = prepare_precisions(CONTEXT, plan, storage)
    study, is_new = sweep.open_search_study(plan, storage)
    agreed = agree_on_precisions(plan, study, is_new=is_new, prepared=prepared)
    study.set_user_attr(studies.SWEEP_RUN_ATTR, "0" * 32)
    return agreed


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace trial steps, which find bf16 faster for yolox alone; return whose were made."""
    tried: list[str] = []

    def choose(context: object, plan: Plan) -> dict[str, str]:
        tried.append(plan.name)
        return {"yolox": "bf16", "ssd": "fp32"}

    monkeypatch.setattr(precisions, "choose_precisions", choose)
    return tried


def test_the_first_command_chooses_for_all(tmp_path: Path, tried: list[str]) -> None:
    first = start_sweep(plan_sweep(tmp_path))
    assert first.get_options("yolox").precision == "bf16"
    assert first.get_options("ssd").precision == "fp32"

    again = start_sweep(plan_sweep(tmp_path))
    assert again.precisions == first.precisions
    assert len(tried) == 1


def test_a_given_precision_is_taken(tmp_path: Path, tried: list[str]) -> None:
    plan = start_sweep(plan_sweep(tmp_path, precision="bf16"))
    assert plan.get_options("ssd").precision == "bf16"
    assert not tried


def test_a_study_of_an_earlier_version_goes_on_in_floats(tmp_path: Path, tried: list[str]) -> None:
    plan = plan_sweep(tmp_path)
    storage = open_storage(plan.storage, plan.sweep.heartbeat)
    study, _ = sweep.open_search_study(plan, storage)
    study.set_user_attr(studies.SWEEP_RUN_ATTR, "0" * 32)
    assert start_sweep(plan).precisions == {"yolox": "fp32", "ssd": "fp32"}
    assert not tried


def test_two_commands_that_start_at_once_agree(tmp_path: Path, tried: list[str]) -> None:
    """Both find no study; the second one to create it takes what the first one writes."""
    plan = plan_sweep(tmp_path)
    storage = open_storage(plan.storage, plan.sweep.heartbeat)
    prepared = prepare_precisions(CONTEXT, plan, storage)
    expected = start_sweep(plan)

    study, is_new = sweep.open_search_study(plan, storage)
    other = dict.fromkeys(prepared, "fp32")
    agreed = agree_on_precisions(plan, study, is_new=is_new, prepared=other)
    assert agreed.precisions == expected.precisions
    assert len(tried) == 2
