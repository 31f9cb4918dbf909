"""What the terminal shows while a sweep runs, on studies in memory."""

import time
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from detreg.sweeps.jobs import JOB_ATTR, PublishJob, RetrainJob, Side
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.progress import Progress
from detreg.sweeps.request import make_request, parse_templates
from detreg.sweeps.study import FAILURE_ATTR

SCORES = {1: 0.25, 2: 0.5}
"""The val mAP of two epochs."""


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


@pytest.fixture
def plan() -> Plan:
    request = make_request(parse_templates("yolox"), {"trials": 4, "workers": 2})
    return make_plan(request, "0123456789abcdef", "sqlite:///sweeps.db")


def add_trial(study: optuna.Study, state: TrialState, **user_attrs: object) -> None:
    trial = create_trial(
        state=state,
        value=max(SCORES.values()) if state is TrialState.COMPLETE else None,
        params={"per_item_lrate": 0.000123456},
        distributions={"per_item_lrate": FloatDistribution(1e-5, 1e-3, log=True)},
        user_attrs=user_attrs,
        intermediate_values=SCORES,
    )
    study.add_trial(trial)


def print_ended(progress: Progress, capsys: pytest.CaptureFixture[str]) -> list[str]:
    progress.print_ended_trials()
    return capsys.readouterr().out.splitlines()


def test_each_ended_trial_gets_one_line(
    study: optuna.Study, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    add_trial(study, TrialState.COMPLETE)
    progress = Progress(study, plan, wanted=4)
    assert print_ended(progress, capsys) == []

    add_trial(study, TrialState.PRUNED)
    add_trial(study, TrialState.FAIL, **{FAILURE_ATTR: "loss is NaN or infinite"})
    add_trial(study, TrialState.RUNNING)
    pruned, failed = print_ended(progress, capsys)

    values = "per_item_lrate=0.0001235"
    counts = "1 done, 1 pruned, 1 failed, best 0.5000 (trial 0), 0:00 left"
    assert pruned == f"trial 1  pruned at mAP 0.5000  {values}  2 epochs, 0:00  |  {counts}"
    assert failed == f"trial 2  failed: loss is NaN or infinite  {values}  |  {counts}"
    assert print_ended(progress, capsys) == []


def test_a_lost_trial_is_not_a_failure(
    study: optuna.Study, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(study, plan, wanted=4)
    add_trial(study, TrialState.FAIL)
    (line,) = print_ended(progress, capsys)
    assert line.startswith("trial 0  lost its worker after 2 epochs and is retried")
    assert "0 done, 0:00 left" in line


def test_lineages_beyond_the_wanted_ones_are_not_shown(
    study: optuna.Study, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(study, plan, wanted=1)
    add_trial(study, TrialState.COMPLETE)
    add_trial(study, TrialState.COMPLETE)
    (line,) = print_ended(progress, capsys)
    assert line.startswith("trial 0  mAP 0.5000")


def test_final_jobs_are_named_by_what_they_do(
    study: optuna.Study, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(study, plan, wanted=2)
    publish = PublishJob("0123", "yolox", {})
    retrain = RetrainJob(7, Side.DEFAULTS, "yolox", {})
    for job in (publish, retrain):
        add_trial(study, TrialState.COMPLETE, **{JOB_ATTR: job.to_json()})
    lines = print_ended(progress, capsys)
    assert lines[0].startswith("registering the best  mAP")
    assert lines[1].startswith("defaults with seed 7  mAP")


def test_the_time_left_ends_with_the_budget(
    study: optuna.Study,
    plan: Plan,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def say_a_minute(*arguments: object) -> float:
        return 60.0

    monkeypatch.setattr("detreg.sweeps.study.compute_median_seconds", say_a_minute)
    without_budget = Progress(study, plan, wanted=5)
    with_budget = Progress(study, replace(plan, deadline=time.time() - 1), wanted=5)
    add_trial(study, TrialState.COMPLETE)

    # Four trials of a minute, on two workers.
    (line,) = print_ended(without_budget, capsys)
    assert line.endswith(", 2:00 left")
    (line,) = print_ended(with_budget, capsys)
    assert line.endswith(", 0:00 left")
