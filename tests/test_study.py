"""The state of a sweep: which trials count, which are retried, who may start another.

No network is trained here.
"""

import datetime
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from detreg.errors import UnreachableError, UsageError
from detreg.sweeps import storage as storages
from detreg.sweeps import study as studies
from detreg.sweeps.jobs import PublishJob, RetrainJob, Side, parse_job
from detreg.sweeps.samplers import make_pruner, make_sampler
from detreg.sweeps.storage import (
    MAX_TRIES,
    StudyStorage,
    open_storage,
    requeue_trial,
    retry_while_unreachable,
)
from detreg.sweeps.study import (
    BEGUN_ATTR,
    DEFAULTS_ATTR,
    FAILURE_ATTR,
    SURPLUS_ATTR,
    FirstTrial,
    Lineage,
    NextStep,
    decide_next_step,
    get_lineages,
    is_surplus,
    open_study,
    requeue_lost_trials,
)


@pytest.fixture
def storage(tmp_path: Path) -> StudyStorage:
    return open_storage(f"sqlite:///{tmp_path / 'sweeps.db'}", 1)


def open_test_study(
    storage: StudyStorage, first_trials: Sequence[FirstTrial] = (), name: str = "s"
) -> optuna.Study:
    sampler = make_sampler("tpe", seed=0, wanted=20, is_conditional=False)
    study, _ = open_study(name, storage, sampler, make_pruner("none", 4), first_trials)
    return study


def suggest_rate(trial: optuna.Trial) -> float:
    """Do what a worker does with a trial that it begins; the value is the suggested rate."""
    trial.set_user_attr(BEGUN_ATTR, trial.number)
    return trial.suggest_float("rate", 1e-5, 1e-3, log=True)


def get_backend(study: optuna.Study) -> RDBStorage:
    backend = study._storage._backend  # type: ignore[attr-defined]
    assert isinstance(backend, RDBStorage)
    return backend


def execute(study: optuna.Study, statement: str) -> None:
    with get_backend(study).engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement))


def add_dead_trial(study: optuna.Study, reported_epochs: int = 0) -> int:
    """Add a trial whose worker died: running, with parameters and reports, silent for years."""
    trial = study.ask()
    suggest_rate(trial)
    for epoch in range(1, reported_epochs + 1):
        trial.report(epoch / 10, epoch)
    get_backend(study).record_heartbeat(trial._trial_id)
    execute(study, "UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")
    return trial.number


def get_states(trials: Sequence[FrozenTrial]) -> list[TrialState]:
    return [trial.state for trial in trials]


def test_dead_trial_is_retried_under_another_number_with_its_values(storage: StudyStorage) -> None:
    study = open_test_study(storage)
    number = add_dead_trial(study, reported_epochs=2)
    assert decide_next_step(study, 1) is NextStep.WAIT

    requeue_lost_trials(study, 1)
    (lineage,) = get_lineages(study)
    dead, retry = lineage.trials
    assert get_states(lineage.trials) == [TrialState.FAIL, TrialState.WAITING]
    assert dead.number == number
    assert retry.params == dead.params
    assert retry.intermediate_values == {1: 0.1, 2: 0.2}
    assert decide_next_step(study, 1) is NextStep.START
    assert not lineage.is_settled

    requeue_lost_trials(study, 1)
    assert len(study.trials) == 2, "a second call queues nothing more"

    study.optimize(suggest_rate, n_trials=1)
    assert decide_next_step(study, 1) is NextStep.END
    assert get_lineages(study)[0].last.params == dead.params


def test_trial_without_a_first_heartbeat_is_found_dead_too(storage: StudyStorage) -> None:
    study = open_test_study(storage)
    study.ask()
    requeue_lost_trials(study, 60)
    assert get_states(study.trials) == [TrialState.RUNNING], "its worker may still begin it"

    long_ago = datetime.datetime.now() - datetime.timedelta(seconds=241)
    execute(study, f"UPDATE trials SET datetime_start = '{long_ago}'")
    requeue_lost_trials(study, 60)
    assert get_states(study.trials) == [TrialState.FAIL, TrialState.WAITING]


def test_trial_given_back_is_retried_and_one_that_failed_for_a_reason_is_not(
    storage: StudyStorage,
) -> None:
    study = open_test_study(storage)

    def stop(trial: optuna.Trial) -> float:
        suggest_rate(trial)
        raise KeyboardInterrupt

    def diverge(trial: optuna.Trial) -> float:
        trial.set_user_attr(FAILURE_ATTR, "loss is NaN or infinite")
        raise ValueError

    with pytest.raises(KeyboardInterrupt):
        study.optimize(stop, n_trials=1)
    assert get_lineages(study)[0].is_lost
    requeue_lost_trials(study, 1)
    assert study.trials[1].state is TrialState.WAITING

    study.optimize(suggest_rate, n_trials=1)
    study.optimize(diverge, n_trials=1, catch=(ValueError,))
    failed = get_lineages(study)[1]
    assert failed.is_settled
    assert failed.has_failed
    assert failed.failure_reason == "loss is NaN or infinite"

    requeue_lost_trials(study, 1)
    assert len(study.trials) == 3
    assert decide_next_step(study, 2) is NextStep.END
    assert decide_next_step(study, 3) is NextStep.START


@pytest.mark.parametrize(
    "read", [get_lineages, lambda study: studies.compute_median_seconds(study, TrialState.COMPLETE)]
)
def test_reading_trials_outlasts_a_lost_connection(
    read: Callable[[optuna.Study], object],
    storage: StudyStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = open_test_study(storage)
    study.optimize(suggest_rate, n_trials=1)
    get_trials = study.get_trials
    calls = 0

    def fail_once(
        deepcopy: bool = True, states: tuple[TrialState, ...] | None = None
    ) -> list[FrozenTrial]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageInternalError("the connection is gone")
        return get_trials(deepcopy=deepcopy, states=states)

    monkeypatch.setattr(study, "get_trials", fail_once)
    assert read(study)
    assert calls == 2


def test_trial_that_always_kills_its_worker_is_given_up(storage: StudyStorage) -> None:
    study = open_test_study(storage)
    for _ in range(MAX_TRIES):
        add_dead_trial(study)
        requeue_lost_trials(study, 1)

    (lineage,) = get_lineages(study)
    assert len(lineage.trials) == MAX_TRIES
    assert lineage.is_settled
    assert lineage.failure_reason == f"its worker died {MAX_TRIES} times"
    assert decide_next_step(study, 1) is NextStep.END


def test_workers_that_start_together_agree_which_trial_is_surplus(storage: StudyStorage) -> None:
    study = open_test_study(storage)
    numbers = [study.ask().number for _ in range(4)]
    surplus = [is_surplus(study, number, wanted=3) for number in numbers]
    assert surplus == [False, False, False, True]

    study.tell(3, state=TrialState.FAIL)
    # The retry of a dead trial belongs, although its number is beyond the wanted ones.
    study.tell(0, state=TrialState.FAIL)
    requeue_lost_trials(study, 1)
    retry = study.ask().number
    assert retry == 4
    assert not is_surplus(study, retry, wanted=3)


def test_second_retry_of_one_failure_is_surplus(storage: StudyStorage) -> None:
    study = open_test_study(storage)
    add_dead_trial(study)
    optuna.storages.fail_stale_trials(study)
    # As another process does that repairs the study at the same moment.
    requeue_trial(study, study.trials[0])
    assert len(study.trials) == 3

    first, second = study.ask(), study.ask()
    assert not is_surplus(study, first.number, wanted=5)
    assert is_surplus(study, second.number, wanted=5)

    second.set_user_attr(SURPLUS_ATTR, True)
    study.tell(second, state=TrialState.FAIL)
    numbers = [[trial.number for trial in lineage.trials] for lineage in get_lineages(study)]
    assert numbers == [[0, first.number]]


def test_lineage_must_have_a_trial() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        Lineage(())


def test_one_of_many_commands_creates_the_study_and_all_see_its_first_trials(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    open_storage(url, 1)
    first_trials = [
        FirstTrial({"rate": 1e-4}, {DEFAULTS_ATTR: "yolox"}),
        FirstTrial({"rate": 2e-4}, {DEFAULTS_ATTR: "ssd"}),
    ]
    seen: list[tuple[int, bool]] = []

    def open_and_count() -> None:
        sampler = make_sampler("tpe", seed=0, wanted=20, is_conditional=False)
        study, is_new = open_study(
            "s", open_storage(url, 1), sampler, make_pruner("none", 4), first_trials
        )
        seen.append((len(study.get_trials()), is_new))

    threads = [threading.Thread(target=open_and_count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(seen) == [(2, False), (2, False), (2, False), (2, True)]
    study = open_test_study(open_storage(url, 1), first_trials)
    assert [trial.user_attrs[DEFAULTS_ATTR] for trial in study.trials] == ["yolox", "ssd"]


def test_study_that_was_left_half_made_is_filled(
    storage: StudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_trials = [FirstTrial({"rate": 1e-4}), FirstTrial({"rate": 2e-4})]
    open_test_study(storage, first_trials[:1])
    monkeypatch.setattr(studies, "MAX_STUDY_WAIT", 0.0)
    study = open_test_study(storage, first_trials)
    study.optimize(suggest_rate, n_trials=2)
    assert [trial.params["rate"] for trial in study.trials] == [1e-4, 2e-4]


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_sampled_values_depend_on_seed_and_number_alone(kind: str, tmp_path: Path) -> None:
    def sample_rates(name: str, seed: int, restart: int) -> list[float]:
        """Sample twelve trials; before the trial `restart` another process takes over."""
        storage = open_storage(f"sqlite:///{tmp_path / name}.db", 1)
        for number in range(12):
            if number in (0, restart):
                sampler = make_sampler(kind, seed, wanted=12, is_conditional=False)
                study, _ = open_study("s", storage, sampler, make_pruner("none", 4), [])
            study.optimize(suggest_rate, n_trials=1)
        return [trial.params["rate"] for trial in study.trials]

    rates = sample_rates("a", seed=0, restart=0)
    assert sample_rates("b", seed=0, restart=7) == rates
    assert len(set(rates)) == 12
    assert sample_rates("c", seed=1, restart=0) != rates


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_poor_trial_is_pruned_and_good_one_is_not(kind: str, storage: StudyStorage) -> None:
    sampler = make_sampler("random", seed=0, wanted=20, is_conditional=False)
    study, _ = open_study(kind, storage, sampler, make_pruner(kind, 12), [])

    def count_epochs(final_mAP: float) -> int:
        """Do a trial whose mAP rises to `final_mAP`; return the epochs before it is pruned."""

        def train(trial: optuna.Trial) -> float:
            for epoch in range(1, 13):
                trial.report(final_mAP * epoch / 12, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return final_mAP

        study.optimize(train, n_trials=1)
        return len(study.trials[-1].intermediate_values)

    for final_mAP in (0.5, 0.52, 0.48, 0.51, 0.53, 0.5, 0.52, 0.51):
        count_epochs(final_mAP)
    poor = [count_epochs(0.05) for _ in range(6)]
    good = [count_epochs(0.6 + number / 100) for number in range(6)]
    assert min(poor) < 12
    assert max(good) == 12


@pytest.mark.parametrize("url", ["nonsense", "oracle+nothing://x", "mysql://root@127.0.0.1/x"])
def test_storage_must_be_a_database_url(url: str) -> None:
    with pytest.raises(UsageError, match="storage must be sqlite:///FILE or postgresql://"):
        open_storage(url, 1)


def test_refused_storage_is_named_without_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        open_storage("oracle+nothing://me:secret@host/sweeps", 1)
    assert "got 'oracle+nothing://me:***@host/sweeps'" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_unreachable_storage_is_reported_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        open_storage("postgresql://me:secret@127.0.0.1:9/sweeps", 1)
    assert "does not answer" in str(caught.value)
    assert "secret" not in str(caught.value)

    with pytest.raises(UnreachableError):
        open_storage(f"sqlite:///{tmp_path}/no/such/folder/x.db", 1)


def test_heartbeat_that_cannot_be_written_raises_nothing(
    storage: StudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_connection(self: RDBStorage, trial_id: int) -> None:
        raise StorageInternalError("the connection is gone")

    monkeypatch.setattr(RDBStorage, "record_heartbeat", lose_connection)
    storage.record_heartbeat(0)


def test_unreachable_database_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def answer_at_third_call() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise sqlalchemy.exc.OperationalError("select", {}, Exception("gone"))
        return "here"

    assert retry_while_unreachable(answer_at_third_call, pause=0.01) == "here"
    assert calls == 3

    monkeypatch.setattr(storages, "MAX_OUTAGE", 0.0)
    calls = 0
    with pytest.raises(sqlalchemy.exc.OperationalError):
        retry_while_unreachable(answer_at_third_call, pause=0.01)


def test_final_jobs_keep_the_form_that_studies_have_stored() -> None:
    hyperparameters = {"per_item_lrate": 1e-4, "image_size": [320]}
    publish = PublishJob("0123", "yolox", hyperparameters)
    retrain = RetrainJob(7, Side.DEFAULTS, "yolox", hyperparameters)
    assert publish.to_json() == {
        "does": "publish",
        "run_id": "0123",
        "who": "best",
        "template": "yolox",
        "hyperparameters": hyperparameters,
    }
    assert retrain.to_json() == {
        "does": "train",
        "seed": 7,
        "who": "defaults",
        "template": "yolox",
        "hyperparameters": hyperparameters,
    }
    assert parse_job(publish.to_json()) == publish
    assert parse_job(retrain.to_json()) == retrain
    with pytest.raises(ValueError, match="must publish or train, got 'sing'"):
        parse_job({"does": "sing"})
