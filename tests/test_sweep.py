"""Sweeps on thirty small pictures: trials, their MLflow runs, pruning, budget, failures, and the end with its comparison."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import TINY
from mlflow import MlflowClient
from optuna.pruners import BasePruner
from optuna.trial import TrialState, create_trial

import detreg
from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import MemoryExhaustedError, StoppedError, UsageError
from detreg.sweeps import study as studies
from detreg.sweeps import sweep as sweeps
from detreg.sweeps import worker
from detreg.sweeps.duration import format_duration, parse_duration
from detreg.sweeps.finish import comparison, concluded
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.request import make_request
from detreg.templates import TEMPLATES
from detreg.tracking import runs


class Always(BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:  # noqa: ARG002
        return True


def planned(tiny: Path, folder: Path, **values: Any) -> Plan:
    given = (
        TINY
        | {"data": tiny, "storage": f"sqlite:///{folder / 'sweeps.db'}", "heartbeat": 1}
        | values
    )
    request = make_request((TEMPLATES["yolox"],), given)
    return make_plan(request, load_dataset(str(tiny)).digest, str(given["storage"]))


@pytest.fixture
def parent(store: str) -> Iterator[str]:
    with runs.start_run("sweep", {}) as active:
        pass
    yield active.id


@pytest.fixture
def dataset(tiny: Path) -> Dataset:
    return load_dataset(str(tiny))


def opened(plan: Plan, pruner: BasePruner | None = None) -> optuna.Study:
    study, _ = sweeps._opened(plan, storage.open_storage(plan.storage, plan.sweep.heartbeat))
    if pruner is not None:
        study.pruner = pruner
    return study


def optimise(study: optuna.Study, plan: Plan, dataset: Dataset, trials: int = 1) -> None:
    study.optimize(
        lambda trial: worker._told(plan, dataset, trial, worker.search),
        n_trials=trials,
        catch=(Exception,),
    )


def test_the_defaults_come_first_and_only_others_are_pruned(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset
) -> None:
    plan = planned(tiny, tmp_path).start(parent, None)
    study = opened(plan, Always())
    optimise(study, plan, dataset, 2)
    defaults, other = study.trials
    assert (
        defaults.params == {"per_item_lrate": 0.01 / 64}
        and defaults.state is TrialState.COMPLETE
        and len(defaults.intermediate_values) == 2
    )
    assert other.state is TrialState.PRUNED and len(other.intermediate_values) == 1
    client = MlflowClient()
    kept, cut = (client.get_run(trial.user_attrs[studies.RUNS_ATTR][-1]) for trial in study.trials)
    assert kept.info.status == cut.info.status == "FINISHED"
    assert cut.data.tags[runs.PRUNED] == "after epoch 1 of 2" and runs.PRUNED not in kept.data.tags
    assert (
        kept.data.tags["mlflow.parentRunId"] == parent
        and kept.data.tags[runs.TRIAL] == "0"
        and kept.data.tags[runs.STUDY] == plan.name
    )
    assert (
        kept.data.params["per_item_lrate"] == "0.00015625"
        and float(cut.data.params["per_item_lrate"]) == other.params["per_item_lrate"]
    )
    # The schedule of the cut trial is that of the whole one.
    rates = [client.get_metric_history(run.info.run_id, "train/lr")[0].value for run in (kept, cut)]
    assert rates[0] / defaults.params["per_item_lrate"] == pytest.approx(
        rates[1] / other.params["per_item_lrate"]
    )


def test_a_budget_ends_a_trial_after_its_epoch_and_a_later_start_resumes_it(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset
) -> None:
    plan = planned(tiny, tmp_path)
    study = opened(plan)
    with pytest.raises(KeyboardInterrupt):
        optimise(study, plan.start(parent, time.time()), dataset)
    (cut,) = study.trials
    assert (
        cut.state is TrialState.FAIL
        and len(cut.intermediate_values) == 1
        and studies.FAILURE_ATTR not in cut.user_attrs
    )
    client = MlflowClient()
    (eid,) = cut.user_attrs[studies.RUNS_ATTR]
    assert (
        client.get_run(eid).info.status == "KILLED"
        and "budget is over" in client.get_run(eid).data.tags[runs.FAILURE]
    )
    studies.requeue_lost_trials(study, 1)
    optimise(study, plan.start(parent, None), dataset)
    again = study.trials[-1]
    assert (
        again.state is TrialState.COMPLETE
        and again.params == cut.params
        and len(again.intermediate_values) == 2
    )
    goes_on = client.get_run(again.user_attrs[studies.RUNS_ATTR][-1])
    assert goes_on.data.tags[runs.PARENT] == eid and goes_on.data.tags[runs.START].startswith(
        f"Resumes run {eid} after epoch 1 of 2"
    )
    assert [entry.step for entry in client.get_metric_history(goes_on.info.run_id, "val/mAP")] == [
        2
    ]


def test_a_trial_whose_worker_died_before_it_could_tell_is_not_trained_twice(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset
) -> None:
    plan = planned(tiny, tmp_path).start(parent, None)
    study = opened(plan)
    optimise(study, plan, dataset)
    (whole,) = study.trials
    dead = create_trial(
        state=TrialState.WAITING,
        params=whole.params,
        distributions=whole.distributions,
        user_attrs=whole.user_attrs,
    )
    study.add_trial(dead)
    optimise(study, plan, dataset)
    told = study.trials[1]
    assert (
        told.value == whole.value
        and told.user_attrs[studies.RUNS_ATTR] == whole.user_attrs[studies.RUNS_ATTR]
    )
    assert told.intermediate_values == whole.intermediate_values


def test_an_epoch_that_was_kept_but_not_told_is_told_by_the_next_worker(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tiny, tmp_path).start(parent, None)
    study = opened(plan)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optuna.Trial, "report", killed)
        optimise(study, plan, dataset)
    assert study.trials[0].intermediate_values == {}
    studies.requeue_lost_trials(study, 1)
    optimise(study, plan, dataset)
    again = study.trials[-1]
    client = MlflowClient()
    dead, goes_on = (
        client.get_metric_history(eid, "val/mAP") for eid in again.user_attrs[studies.RUNS_ATTR]
    )
    assert [entry.step for entry in dead] == [1] and [entry.step for entry in goes_on] == [2]
    assert again.intermediate_values == {entry.step: entry.value for entry in dead + goes_on}


def test_a_worker_that_was_taken_for_dead_gives_its_trial_up(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tiny, tmp_path).start(parent, None)
    study, report = opened(plan), optuna.Trial.report

    def late(trial: optuna.Trial, value: float, step: int) -> None:
        study.tell(
            trial.number, state=TrialState.FAIL
        )  # as another process does that misses its heartbeats
        report(trial, value, step)

    with monkeypatch.context() as patch, pytest.raises(storage.TakenOverError):
        patch.setattr(optuna.Trial, "report", late)
        optimise(study, plan, dataset)
    assert studies.lost(studies.get_lineages(study)[0])
    studies.requeue_lost_trials(study, 1)
    optimise(study, plan, dataset)
    again, client = study.trials[-1], MlflowClient()
    late_run, goes_on = (client.get_run(eid) for eid in again.user_attrs[studies.RUNS_ATTR])
    assert (
        late_run.info.status == "KILLED"
        and "silent for four heartbeats" in late_run.data.tags[runs.FAILURE]
    )
    assert goes_on.info.status == "FINISHED" and goes_on.data.tags[runs.START].startswith(
        "Resumes run"
    )
    assert again.state is TrialState.COMPLETE and list(again.intermediate_values) == [1, 2]


def test_a_trial_fails_with_its_reason_and_the_sweep_goes_on(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tiny, tmp_path, space="per_item_lrate=0.9:1.0").start(parent, None)
    study = opened(plan)
    optimise(study, plan, dataset)
    assert study.trials[0].state is TrialState.FAIL
    assert studies.failure(studies.get_lineages(study)[0]).startswith(
        "the loss is NaN or infinite in epoch 1"
    )
    assert (
        MlflowClient().get_run(study.trials[0].user_attrs[studies.RUNS_ATTR][-1]).info.status == "FAILED"
    )

    def full(*arguments: Any) -> Any:
        raise MemoryExhaustedError("the GPU has no memory left")

    monkeypatch.setattr(worker.engine, "fit", full)
    optimise(study, plan, dataset)
    assert [group.failure_reason for group in studies.get_lineages(study)][
        1
    ] == "the GPU has no memory left"
    assert studies.decide_next_step(study, 2) == "end" and studies.decide_next_step(study, 3) == "start"


def test_what_is_not_the_trials_fault_gives_it_back(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tiny, tmp_path).start(parent, None)
    study = opened(plan)

    def away(*arguments: Any) -> Any:
        raise worker.UnreachableError("MLflow does not answer")

    monkeypatch.setattr(worker, "prepare_job", away)
    optimise(study, plan, dataset)
    assert studies.lost(studies.get_lineages(study)[0])


def test_the_database_lies_beside_mlflows(tiny: Path, store: str) -> None:
    assert sweeps._beside_mlflows() == store.replace("mlflow.db", "detreg-sweeps.db")
    assert make_request((TEMPLATES["yolox"],), {}).sweep.storage is None


def test_the_same_arguments_are_the_same_study(tiny: Path, tmp_path: Path) -> None:
    name = planned(tiny, tmp_path).name
    same = planned(
        tiny,
        tmp_path,
        trials=50,
        workers=2,
        budget="2h",
        confirm=3,
        num_workers=1,
        run_name="x",
        registered_model_name="y",
    )
    assert same.name == name and name.startswith("yolox-")
    for changes in (
        {"seed": 1},
        {"space": "per_item_lrate=1e-5:1e-3"},
        {"image_size": 96},
        {"pruner": "none"},
        {"patience": 3},
    ):
        assert planned(tiny, tmp_path, **changes).name != name
    assert planned(tiny, tmp_path, study="mine").name == "mine"


def test_every_problem_is_told_before_anything_starts(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as caught:
        planned(tiny, tmp_path, trials=0, seed=-1, nothing=3)
    assert len(caught.value.problems) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        planned(tiny, tmp_path)
    monkeypatch.delenv("WORLD_SIZE")
    for budget in ("2", "h", "1h30", "0m", "-1h", "2 h"):
        with pytest.raises(UsageError, match="budget must be a duration such as 90m"):
            planned(tiny, tmp_path, budget=budget)
    assert (
        parse_duration("1h30m") == 5400
        and parse_duration("45s") == 45
        and parse_duration("1.5h") == 5400
    )
    with pytest.raises(UsageError, match="MLflow's own database"):
        sweeps._not_mlflows(runs.get_tracking_uri())
    assert format_duration(3725) == "1:02:05" and format_duration(65) == "1:05"


def ended(
    number: int, value: float | None, job: dict[str, Any] | None = None
) -> optuna.trial.FrozenTrial:
    trial = create_trial(value=value, user_attrs={jobs.JOB_ATTR: job} if job else {})
    trial.number = number
    return trial


def test_the_comparison_is_a_measured_sentence() -> None:
    best, defaults = ended(3, 0.55), ended(0, 0.5)
    assert comparison(best, None, []).startswith("the defaults were not trained")
    assert comparison(defaults, defaults, []) == "no trial beats the defaults, whose mAP is 0.5000"
    assert "+0.0500, from one seed" in comparison(best, defaults, [])
    again = {"best": (0.54, 0.56, 0.55), "defaults": (0.50, 0.51, 0.52)}
    results = [ended(9, 0.55, {"does": "publish", "who": "best"})]
    results += [
        ended(9, value, {"does": "train", "who": who})
        for who, values in again.items()
        for value in values
    ]
    told = comparison(best, defaults, results)
    assert told.startswith(
        "mAP 0.5500 against 0.5100 of the defaults, trained again with 3 and 3 other seeds: better than the defaults by 0.0400"
    )
    assert told.endswith("± 0.0082 (standard error)")  # sqrt(0.01**2 / 3 + 0.01**2 / 3)
    worse = [
        ended(9, value, {"does": "train", "who": who})
        for who, values in again.items()
        for value in reversed(values)
    ]
    for trial in worse:
        trial.user_attrs[jobs.JOB_ATTR]["who"] = {"best": "defaults", "defaults": "best"}[
            trial.user_attrs[jobs.JOB_ATTR]["who"]
        ]
    assert "worse than the defaults by 0.0400" in comparison(best, defaults, worse)


@pytest.mark.slow
def test_a_sweep_from_python(
    tiny: Path,
    tmp_path: Path,
    store: str,
    dense_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = TINY | {
        "data": tiny,
        "storage": f"sqlite:///{tmp_path / 'sweeps.db'}",
        "load_from": dense_checkpoint,
        "heartbeat": 5,
        "num_workers": 1,
    }
    del values["frozen_stages"]
    values["num_workers"] = 1  # a process of a process
    values |= {
        "space": "per_item_lrate=1e-6:1e-4 frozen_stages=0:2",
        "pruner": "none",
        "registered_model_name": "swept",
    }
    first = detreg.sweep("yolox", trials=3, confirm=2, **values)
    told = capsys.readouterr().out
    assert first["complete"] == 3 and first["failed"] == 0 and first["model_name"] == "swept"
    assert first["alias"] == ("champion" if round(first["mAP"], 4) else "challenger")
    assert told.count("  |  ") >= 4 and "3 done" in told and "trial 0  mAP" in told
    client = MlflowClient()
    version = client.get_model_version("swept", first["model_version"])
    assert version.run_id == first["best_run_id"]
    best, sweep = client.get_run(first["best_run_id"]), client.get_run(first["run_id"])
    assert (
        best.info.status == sweep.info.status == "FINISHED"
        and {"mAP", "parity/matched", "val/mAP_best"} <= best.data.metrics.keys()
    )
    assert (
        sweep.data.tags["detreg.best_eid"] == first["best_run_id"]
        and sweep.data.metrics["trials/complete"] == 3
    )
    assert (
        sweep.data.metrics["mAP"] == best.data.metrics["mAP"] and sweep.data.params["trials"] == "3"
    )
    artifacts = {file.path for file in client.list_artifacts(first["run_id"], "report")}
    assert {
        f"report/{name}" for name in ("index.html", "history.png", "parallel_coordinates.png")
    } <= artifacts
    study = optuna.load_study(study_name=first["study"], storage=values["storage"])
    for trial in study.trials:
        run = client.get_run(trial.user_attrs[studies.RUNS_ATTR][-1])
        assert (
            run.data.tags[runs.TRIAL] == str(trial.number)
            and run.data.tags["mlflow.parentRunId"] == first["run_id"]
        )
        assert trial.value == run.data.metrics["val/mAP_best"]
        assert float(run.data.params["per_item_lrate"]) == pytest.approx(
            trial.params["per_item_lrate"]
        )
    beaten = first["best_trial"] != 0
    assert told.count("with seed") == (4 if beaten else 0)
    assert (
        ("other seeds" in first["comparison"] and "±" in first["comparison"])
        if beaten
        else "no trial beats" in first["comparison"]
    )
    again = detreg.sweep("yolox", trials=3, confirm=2, **values)
    assert again == first and "3 of 3 trials have ended" in capsys.readouterr().out
    assert len(client.search_model_versions("name = 'swept'")) == 1
    more = detreg.sweep("yolox", trials=4, **values)
    assert more["complete"] == 4 and more["run_id"] == first["run_id"]
    assert (
        json.loads(
            Path(
                client.download_artifacts(first["run_id"], "sweep.json", str(tmp_path))
            ).read_text()
        )
        == more
    )


def test_no_complete_trial_is_told_with_the_reasons(
    tiny: Path, tmp_path: Path, parent: str
) -> None:
    plan = planned(tiny, tmp_path).start(parent, None)
    study = opened(plan)
    trial = study.ask()
    trial.set_user_attr(studies.FAILURE_ATTR, "the loss is NaN or infinite")
    study.tell(trial, state=TrialState.FAIL)
    with runs.start_run("x", {}) as active, pytest.raises(StoppedError) as caught:
        concluded(active, plan, study, tmp_path)
    assert caught.value.problems[1] == "trial 0: the loss is NaN or infinite"
