"""The report of a sweep: its page and figures, on studies in memory."""

import re
from pathlib import Path

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from detreg.sweeps.parallel_coordinates import draw_parallel_coordinates
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.report import write_report
from detreg.sweeps.request import make_request, parse_templates
from detreg.sweeps.result import SweepResult
from detreg.sweeps.study import FAILURE_ATTR, MEMORY_ATTR, RUNS_ATTR

RATES = [1e-5, 3e-5, 1e-4, 2e-4, 5e-4, 1e-3]
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "per_item_lrate": FloatDistribution(1e-5, 1e-3, log=True),
    "frozen_stages": IntDistribution(0, 2),
}


@pytest.fixture
def plan() -> Plan:
    values = {"trials": 20, "num_epochs": 10, "space": "per_item_lrate=1e-5:1e-3 frozen_stages"}
    request = make_request(parse_templates("yolox"), values)
    return make_plan(request, "0123456789abcdef", "postgresql://me:secret@host/optuna")


def make_result(num_trials: int) -> SweepResult:
    return SweepResult(
        run_id="sweep-run",
        study="study",
        trials=num_trials,
        complete=num_trials,
        pruned=0,
        failed=0,
        best_trial=0,
        best_run_id="best-run",
        template="yolox",
        metric="mAP",
        score=0.5,
        hyperparameters={},
        defaults_score=0.4,
        comparison="0.5 against 0.4",
        model_name="boats",
        model_version="3",
        alias="champion",
        reason="it is the best",
    )


def make_trial(index: int, state: TrialState, num_epochs: int, **user_attrs: object) -> FrozenTrial:
    score = 0.1 * (index + 1)
    return create_trial(
        state=state,
        value=score if state is TrialState.COMPLETE else None,
        params={"per_item_lrate": RATES[index], "frozen_stages": index % 3},
        distributions=DISTRIBUTIONS,
        user_attrs=user_attrs,
        intermediate_values=dict.fromkeys(range(1, num_epochs + 1), score),
    )


def test_the_report_shows_every_trial_and_what_mattered(plan: Plan, tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    for index in range(5):
        study.add_trial(make_trial(index, TrialState.COMPLETE, 10, **{RUNS_ATTR: ["dead", "run"]}))
    study.add_trial(make_trial(5, TrialState.PRUNED, 2, **{MEMORY_ATTR: "had mAP 0.5 on boats"}))
    study.add_trial(make_trial(0, TrialState.FAIL, 0, **{FAILURE_ATTR: "loss is NaN"}))

    write_report(tmp_path / "report", plan, study, make_result(num_trials=7))

    names = {path.name for path in (tmp_path / "report").iterdir()}
    figures = {"history.png", "importances.png", "parallel_coordinates.png"}
    assert names == figures | {"index.html"}
    page = (tmp_path / "report" / "index.html").read_text()
    for words in (
        "Sweep of yolox",
        "boats version 3 as champion: it is the best",
        "52 of 60 that the same trials take without pruning",
        "failed: loss is NaN",
        "per_item_lrate=0.0001 frozen_stages=2",
        "<td>run</td>",
        "<td>memory: had mAP 0.5 on boats</td>",
        "<td>the sampler</td>",
    ):
        assert words in page
    assert page.count("data:image/png") == 3
    assert "secret" not in page
    assert "http" not in re.sub(r"base64,[^\"']*", "", page)


def test_a_short_sweep_has_no_importances(plan: Plan, tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(make_trial(0, TrialState.COMPLETE, 10))
    write_report(tmp_path, plan, study, make_result(num_trials=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.png", "index.html"]


def test_lines_have_a_gap_where_a_trial_lacks_a_value(tmp_path: Path) -> None:
    """As with several templates, whose trials have hyperparameters of their own."""
    choices = CategoricalDistribution(["yolox_nano", "yolox_tiny"])
    with_choice = create_trial(
        value=0.3,
        params={"base_model": "yolox_tiny"},
        distributions={"base_model": choices},
        intermediate_values={1: 0.3},
    )
    path = draw_parallel_coordinates(
        [make_trial(2, TrialState.COMPLETE, 1), with_choice], 0, tmp_path / "figure.png"
    )
    assert path.stat().st_size > 10_000
