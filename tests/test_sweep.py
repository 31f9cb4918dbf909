"""Sweeps on thirty small images: trials, their MLflow runs, pruning, budget, failures, the end."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from conftest import TINY
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState, create_trial

import detreg
from detreg import memory
from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import MemoryExhaustedError, StoppedError, UnreachableError, UsageError
from detreg.sweeps import pool as pools
from detreg.sweeps import study as studies
from detreg.sweeps import sweep as sweeps
from detreg.sweeps import trials, worker
from detreg.sweeps.comparison import compare_with_defaults
from detreg.sweeps.duration import format_duration, parse_duration
from detreg.sweeps.finish import finish_sweep
from detreg.sweeps.jobs import JOB_ATTR, PublishJob, RetrainJob, Side, Stage
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.pool import MAX_WORKER_FAILURES, WorkerPool
from detreg.sweeps.request import make_request
from detreg.sweeps.storage import TakenOverError, open_storage
from detreg.sweeps.study import NextStep, get_lineages, requeue_lost_trials
from detreg.templates import TEMPLATES
from detreg.tracking import runs
from detreg.training import engine


class PruneAlways(BasePruner):
    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:  # noqa: ARG002
        return True


def plan_sweep(tiny: Path, folder: Path, **values: object) -> Plan:
    storage = f"sqlite:///{folder / 'sweeps.db'}"
    given = TINY | {"data": tiny, "storage": storage, "heartbeat": 60} | values
    request = make_request((TEMPLATES["yolox"],), given)
    return make_plan(request, load_dataset(str(tiny)).digest, storage)


@pytest.fixture
def parent(store: str) -> str:
    """Return the id of a sweep's MLflow run."""
    with runs.start_run("sweep", {}) as active:
        pass
    return active.id


@pytest.fixture
def dataset(tiny: Path) -> Dataset:
    return load_dataset(str(tiny))


@pytest.fixture
def plan(tiny: Path, tmp_path: Path, parent: str) -> Plan:
    return plan_sweep(tiny, tmp_path).with_run(parent, None)


def open_test_study(plan: Plan) -> optuna.Study:
    study, _ = sweeps.open_search_study(plan, open_storage(plan.storage, plan.sweep.heartbeat))
    return study


def run_trials(study: optuna.Study, plan: Plan, dataset: Dataset, count: int = 1) -> None:
    """Do as a worker does with the study's next trials."""

    def objective(trial: optuna.Trial) -> float:
        return worker.run_and_record_failure(plan, dataset, trial, trials.run_search_trial)

    study.optimize(objective, n_trials=count, catch=(Exception,))


def get_last_run(trial: FrozenTrial) -> MlflowRun:
    return MlflowClient().get_run(trial.user_attrs[studies.RUNS_ATTR][-1])


def list_steps(eid: str, metric: str) -> list[int]:
    history = MlflowClient().get_metric_history(eid, metric)
    return [entry.step for entry in history]


def test_defaults_come_first_and_only_others_are_pruned(plan: Plan, dataset: Dataset) -> None:
    study = open_test_study(plan)
    study.pruner = PruneAlways()
    run_trials(study, plan, dataset, count=2)

    defaults, other = study.trials
    assert defaults.params == {"per_item_lrate": 4 * 0.01 / 64}
    assert defaults.state is TrialState.COMPLETE
    assert len(defaults.intermediate_values) == 2
    assert other.state is TrialState.PRUNED
    assert len(other.intermediate_values) == 1

    whole_run, pruned_run = get_last_run(defaults), get_last_run(other)
    assert whole_run.info.status == pruned_run.info.status == "FINISHED"
    assert runs.PRUNED not in whole_run.data.tags
    assert pruned_run.data.tags[runs.PRUNED] == "after epoch 1 of 2"
    assert whole_run.data.tags["mlflow.parentRunId"] == plan.parent
    assert whole_run.data.tags[runs.TRIAL] == "0"
    assert whole_run.data.tags[runs.STUDY] == plan.name
    assert whole_run.data.params["per_item_lrate"] == "0.000625"
    assert float(pruned_run.data.params["per_item_lrate"]) == other.params["per_item_lrate"]

    # The schedule of the pruned trial is that of the whole one.
    ratios = []
    for trial, run in ((defaults, whole_run), (other, pruned_run)):
        first = MlflowClient().get_metric_history(run.info.run_id, "train/lr")[0]
        ratios.append(first.value / trial.params["per_item_lrate"])
    assert ratios[0] == pytest.approx(ratios[1])


def test_budget_ends_a_trial_after_its_epoch_and_a_later_start_resumes_it(
    plan: Plan, dataset: Dataset
) -> None:
    study = open_test_study(plan)
    with pytest.raises(KeyboardInterrupt):
        run_trials(study, replace(plan, deadline=time.time()), dataset)

    (stopped,) = study.trials
    assert stopped.state is TrialState.FAIL
    assert len(stopped.intermediate_values) == 1
    assert studies.FAILURE_ATTR not in stopped.user_attrs
    stopped_run = get_last_run(stopped)
    assert stopped_run.info.status == "KILLED"
    assert "budget is over" in stopped_run.data.tags[runs.FAILURE]

    requeue_lost_trials(study, plan.sweep.heartbeat)
    run_trials(study, plan, dataset)
    retry = study.trials[-1]
    assert retry.state is TrialState.COMPLETE
    assert retry.params == stopped.params
    assert len(retry.intermediate_values) == 2

    resumed_run = get_last_run(retry)
    eid = stopped_run.info.run_id
    assert resumed_run.data.tags[runs.PARENT] == eid
    start = resumed_run.data.tags[runs.START]
    assert start.startswith(f"Resumes run {eid} after epoch 1 of 2")
    assert list_steps(resumed_run.info.run_id, "val/mAP") == [2]


def test_trial_whose_worker_died_before_its_value_was_written_is_not_trained_twice(
    plan: Plan, dataset: Dataset
) -> None:
    study = open_test_study(plan)
    run_trials(study, plan, dataset)
    (whole,) = study.trials
    retry = create_trial(
        state=TrialState.WAITING,
        params=whole.params,
        distributions=whole.distributions,
        user_attrs=whole.user_attrs,
    )
    study.add_trial(retry)
    run_trials(study, plan, dataset)

    completed = study.trials[1]
    assert completed.value == whole.value
    assert completed.user_attrs[studies.RUNS_ATTR] == whole.user_attrs[studies.RUNS_ATTR]
    assert completed.intermediate_values == whole.intermediate_values


def test_epoch_with_a_checkpoint_but_no_report_is_reported_by_the_next_worker(
    plan: Plan, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_test_study(plan)

    def stop(trial: optuna.Trial, value: float, step: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optuna.Trial, "report", stop)
        run_trials(study, plan, dataset)
    assert study.trials[0].intermediate_values == {}

    requeue_lost_trials(study, plan.sweep.heartbeat)
    run_trials(study, plan, dataset)
    retry = study.trials[-1]
    dead_eid, resumed_eid = retry.user_attrs[studies.RUNS_ATTR]
    assert list_steps(dead_eid, "val/mAP") == [1]
    assert list_steps(resumed_eid, "val/mAP") == [2]
    client = MlflowClient()
    entries = client.get_metric_history(dead_eid, "val/mAP")
    entries += client.get_metric_history(resumed_eid, "val/mAP")
    assert retry.intermediate_values == {entry.step: entry.value for entry in entries}


def test_worker_that_was_taken_for_dead_gives_its_trial_up(
    plan: Plan, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_test_study(plan)
    report = optuna.Trial.report

    def report_too_late(trial: optuna.Trial, value: float, step: int) -> None:
        # As another process does that misses the heartbeats.
        study.tell(trial.number, state=TrialState.FAIL)
        report(trial, value, step)

    with monkeypatch.context() as patch, pytest.raises(TakenOverError):
        patch.setattr(optuna.Trial, "report", report_too_late)
        run_trials(study, plan, dataset)
    assert get_lineages(study)[0].is_lost

    requeue_lost_trials(study, plan.sweep.heartbeat)
    run_trials(study, plan, dataset)
    retry = study.trials[-1]
    client = MlflowClient()
    late_run, resumed_run = (client.get_run(eid) for eid in retry.user_attrs[studies.RUNS_ATTR])
    assert late_run.info.status == "KILLED"
    assert "no heartbeat for 4 intervals" in late_run.data.tags[runs.FAILURE]
    assert resumed_run.info.status == "FINISHED"
    assert resumed_run.data.tags[runs.START].startswith("Resumes run")
    assert retry.state is TrialState.COMPLETE
    assert list(retry.intermediate_values) == [1, 2]


def test_trial_fails_with_its_reason_and_the_sweep_continues(
    tiny: Path, tmp_path: Path, parent: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_sweep(tiny, tmp_path, space="per_item_lrate=0.9:1.0").with_run(parent, None)
    study = open_test_study(plan)
    run_trials(study, plan, dataset)
    diverged = get_lineages(study)[0]
    assert diverged.has_failed
    assert "loss is NaN or infinite in epoch 1" in diverged.failure_reason
    assert get_last_run(diverged.last).info.status == "FAILED"

    def run_out_of_memory(*arguments: object) -> None:
        raise MemoryExhaustedError("the GPU has no memory left")

    monkeypatch.setattr(engine, "fit", run_out_of_memory)
    run_trials(study, plan, dataset)
    assert get_lineages(study)[1].failure_reason == "the GPU has no memory left"
    assert studies.decide_next_step(study, 2) is NextStep.END
    assert studies.decide_next_step(study, 3) is NextStep.START

    def allocate_too_much(*arguments: object) -> None:
        torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(engine, "fit", allocate_too_much)
    run_trials(study, plan, dataset)
    assert "lower batch_size" in str(get_lineages(study)[2].failure_reason)


def test_unreachable_server_gives_the_trial_back(
    plan: Plan, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_test_study(plan)

    def fail(*arguments: object) -> None:
        raise UnreachableError("MLflow does not answer")

    monkeypatch.setattr(trials, "prepare_job", fail)
    run_trials(study, plan, dataset)
    assert get_lineages(study)[0].is_lost


class DyingProcess:
    """In place of a worker's process: it is dead as soon as it is started."""

    exitcode = 1

    def __init__(self, target: Callable[..., None], args: tuple[object, ...], name: str) -> None:
        pass

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return False

    def terminate(self) -> None:
        pass

    def join(self, timeout: float) -> None:
        pass


def test_pool_gives_up_where_workers_die_again_and_again(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_test_study(plan)
    context: Any = pools.make_context()
    monkeypatch.setattr(context, "Process", DyingProcess, raising=False)
    monkeypatch.setattr(pools, "POLL_SECONDS", 0.0)
    (tmp_path / "worker-0.txt").write_text("first line\nImportError: libGL.so.1\n\n")
    pool = WorkerPool(plan, study, 1, Stage.SEARCH, tmp_path, context)
    message = f"{MAX_WORKER_FAILURES + 1} workers died .* ImportError: libGL.so.1"
    with pytest.raises(StoppedError, match=message):
        pool.run(lambda: None)


def test_pool_tells_which_workers_the_kernel_has_killed(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = open_test_study(plan)
    context: Any = pools.make_context()
    counter = tmp_path / "memory.events"
    counter.write_text("oom 3\noom_kill 0\n")
    monkeypatch.setattr(memory, "OOM_COUNTERS", (tmp_path / "absent", counter))
    monkeypatch.setattr(context, "Process", DyingProcess, raising=False)
    monkeypatch.setattr(DyingProcess, "exitcode", -9)
    monkeypatch.setattr(pools, "POLL_SECONDS", 0.0)
    pool = WorkerPool(plan, study, 1, Stage.SEARCH, tmp_path, context)

    # One of them was killed by somebody else.
    counter.write_text(f"oom 3\noom_kill {MAX_WORKER_FAILURES}\n")
    with pytest.raises(StoppedError, match="workers died"):
        pool.run(lambda: None)
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "no memory left: lower workers" in line]) == 10

    counter.write_text("oom 3\noom_kill 99\n")
    with pytest.raises(MemoryExhaustedError, match="no memory left: lower workers"):
        pool.run(lambda: None)


def test_default_database_is_beside_that_of_mlflow(store: str) -> None:
    assert sweeps.choose_default_storage() == store.replace("mlflow.db", "detreg-sweeps.db")
    assert make_request((TEMPLATES["yolox"],), {}).sweep.storage is None


def test_database_of_mlflow_is_refused(store: str) -> None:
    with pytest.raises(UsageError, match="MLflow's own database"):
        sweeps.refuse_mlflow_database(store)


def test_same_arguments_give_the_same_study(tiny: Path, tmp_path: Path) -> None:
    name = plan_sweep(tiny, tmp_path).name
    assert name.startswith("yolox-")
    same = plan_sweep(
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
    assert same.name == name

    other_arguments: list[dict[str, object]] = [
        {"seed": 1},
        {"space": "per_item_lrate=1e-5:1e-3"},
        {"image_size": 96},
        {"pruner": "none"},
        {"patience": 3},
    ]
    for values in other_arguments:
        assert plan_sweep(tiny, tmp_path, **values).name != name
    assert plan_sweep(tiny, tmp_path, study="mine").name == "mine"


def test_every_problem_is_reported_before_anything_starts(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_sweep(tiny, tmp_path, trials=0, seed=-1, nothing=3)
    assert len(caught.value.problems) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        plan_sweep(tiny, tmp_path)


def test_promise_that_cannot_be_calibrated_is_refused_before_anything_starts(
    tiny: Path, tmp_path: Path
) -> None:
    values = {"data": tiny, "operating_point": "recall:0.999", "storage": f"sqlite:///{tmp_path}/s"}
    with pytest.raises(UsageError, match="at least 999 images with objects"):
        detreg.sweep("yolox", **values)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("budget", ["2", "h", "1h30", "0m", "-1h", "2 h"])
def test_budget_must_be_a_duration(budget: str, tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(UsageError, match="budget must be a duration such as 90m"):
        plan_sweep(tiny, tmp_path, budget=budget)


def test_durations_are_read_and_shown() -> None:
    assert parse_duration("1h30m") == 5400
    assert parse_duration("1.5h") == 5400
    assert parse_duration("45s") == 45
    assert format_duration(3725) == "1:02:05"
    assert format_duration(65) == "1:05"


def make_finished_trial(number: int, value: float) -> FrozenTrial:
    trial = create_trial(value=value)
    trial.number = number
    return trial


def make_retrained_trials(side: Side, *values: float) -> list[FrozenTrial]:
    job = RetrainJob(seed=1, side=side, template="yolox", hyperparameters={})
    return [create_trial(value=value, user_attrs={JOB_ATTR: job.to_json()}) for value in values]


def test_comparison_without_other_seeds_says_what_is_missing() -> None:
    best, defaults = make_finished_trial(3, 0.55), make_finished_trial(0, 0.5)
    assert compare_with_defaults(best, None, []).startswith("the defaults were not trained")
    sentence = compare_with_defaults(defaults, defaults, [])
    assert sentence == "no trial beats the defaults, whose mAP is 0.5000"
    assert "+0.0500, from one seed" in compare_with_defaults(best, defaults, [])

    once = make_retrained_trials(Side.BEST, 0.54) + make_retrained_trials(Side.DEFAULTS, 0.5)
    sentence = compare_with_defaults(best, defaults, once)
    assert sentence.endswith("+0.0400; at least two seeds are needed for a standard error")


def test_comparison_with_other_seeds_has_a_standard_error() -> None:
    best, defaults = make_finished_trial(3, 0.55), make_finished_trial(0, 0.5)
    high, low = (0.54, 0.56, 0.55), (0.50, 0.51, 0.52)
    # The trial that registers the best is no training with another seed.
    job = PublishJob(run_id="0123", template="yolox", hyperparameters={})
    publishing = create_trial(value=0.9, user_attrs={JOB_ATTR: job.to_json()})

    retrained = [
        publishing,
        *make_retrained_trials(Side.BEST, *high),
        *make_retrained_trials(Side.DEFAULTS, *low),
    ]
    # 0.0082 is the root of 0.01**2 / 3 + 0.01**2 / 3.
    assert compare_with_defaults(best, defaults, retrained) == (
        "mAP 0.5500 against 0.5100 of the defaults, trained again with 3 and 3 other seeds: "
        "better than the defaults by 0.0400 ± 0.0082 (standard error)"
    )

    swapped = [
        *make_retrained_trials(Side.BEST, *low),
        *make_retrained_trials(Side.DEFAULTS, *high),
    ]
    sentence = compare_with_defaults(best, defaults, swapped)
    assert "worse than the defaults by 0.0400" in sentence


def test_sweep_without_a_complete_trial_stops_with_the_reasons(plan: Plan, tmp_path: Path) -> None:
    study = open_test_study(plan)
    trial = study.ask()
    trial.set_user_attr(studies.FAILURE_ATTR, "loss is NaN or infinite")
    study.tell(trial, state=TrialState.FAIL)
    with runs.start_run("x", {}) as active, pytest.raises(StoppedError) as caught:
        finish_sweep(active, plan, study, tmp_path)
    assert "run the same command again to resume" in caught.value.problems[0]
    assert caught.value.problems[1] == "trial 0: loss is NaN or infinite"


def run_test_sweep(values: dict[str, object], **options: object) -> dict[str, Any]:
    return detreg.sweep("yolox", **(values | options))


@pytest.mark.slow
def test_sweep_from_python(
    tiny: Path,
    tmp_path: Path,
    store: str,
    dense_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values: dict[str, object] = TINY | {
        "data": tiny,
        "storage": f"sqlite:///{tmp_path / 'sweeps.db'}",
        "load_from": dense_checkpoint,
        "num_workers": 1,  # a worker's own worker process
        "space": "per_item_lrate=1e-6:1e-4 frozen_stages=0:2",
        "pruner": "none",
        "registered_model_name": "swept",
    }
    del values["frozen_stages"]
    first = run_test_sweep(values, trials=3, confirm=2)
    output = capsys.readouterr().out
    assert first["complete"] == 3
    assert first["failed"] == 0
    assert output.count("  |  ") >= 4
    assert "3 done" in output
    assert "trial 0  mAP" in output

    client = MlflowClient()
    check_registered_version(client, first)
    check_sweep_run(client, first)
    check_trials(client, first, str(values["storage"]))
    check_comparison(first, output)

    again = run_test_sweep(values, trials=3, confirm=2)
    assert again == first
    assert "3 of 3 trials have ended" in capsys.readouterr().out
    assert len(client.search_model_versions("name = 'swept'")) == 1

    more = run_test_sweep(values, trials=4)
    assert more["complete"] == 4
    assert more["run_id"] == first["run_id"]
    path = client.download_artifacts(first["run_id"], "sweep.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == more


def check_registered_version(client: MlflowClient, result: dict[str, Any]) -> None:
    assert result["model_name"] == "swept"
    assert result["alias"] == ("champion" if round(result["mAP"], 4) else "challenger")
    version = client.get_model_version("swept", result["model_version"])
    assert version.run_id == result["best_run_id"]


def check_sweep_run(client: MlflowClient, result: dict[str, Any]) -> None:
    best = client.get_run(result["best_run_id"])
    assert best.info.status == "FINISHED"
    assert {"mAP", "parity/matched", "val/mAP_best"} <= best.data.metrics.keys()

    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["detreg.best_eid"] == result["best_run_id"]
    assert run.data.metrics["trials/complete"] == 3
    assert run.data.metrics["mAP"] == best.data.metrics["mAP"]
    assert run.data.params["trials"] == "3"
    artifacts = {file.path for file in client.list_artifacts(result["run_id"], "report")}
    files = ("index.html", "history.png", "parallel_coordinates.png")
    assert {f"report/{name}" for name in files} <= artifacts
    # The page of the dataset is logged once, and not with each trial.
    with_page = []
    for run_id in (result["run_id"], result["best_run_id"]):
        names = {file.path for file in client.list_artifacts(run_id)}
        with_page.append("dataset.html" in names)
    assert with_page == [True, False]


def check_trials(client: MlflowClient, result: dict[str, Any], storage: str) -> None:
    study = optuna.load_study(study_name=result["study"], storage=storage)
    for trial in study.trials:
        run = client.get_run(trial.user_attrs[studies.RUNS_ATTR][-1])
        assert run.data.tags[runs.TRIAL] == str(trial.number)
        assert run.data.tags["mlflow.parentRunId"] == result["run_id"]
        assert trial.value == run.data.metrics["val/mAP_best"]
        rate = float(run.data.params["per_item_lrate"])
        assert rate == pytest.approx(trial.params["per_item_lrate"])


def check_comparison(result: dict[str, Any], output: str) -> None:
    """Two seeds for each side, unless the defaults are the best themselves."""
    if result["best_trial"] == 0:
        assert output.count("with seed") == 0
        assert "no trial beats" in result["comparison"]
    else:
        assert output.count("with seed") == 4
        assert "other seeds" in result["comparison"]
        assert "±" in result["comparison"]
