"""The state of a sweep: which trials count, which are taken up again, who may start another. No network is trained here."""

import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from detreg.errors import UnreachableError, UsageError
from detreg.sweeps import study as studies
from detreg.sweeps.study import (
    BEGUN,
    EXCESS,
    FAILURE,
    lineages,
    lost,
    one_too_many,
    opened,
    repair,
    settled,
    step,
)


@pytest.fixture
def store(tmp_path: Path) -> studies.Storage:
    return studies.storage(f"sqlite:///{tmp_path / 'sweeps.db'}", 1)


def begin(store: studies.Storage, first: studies.First = (), name: str = "s") -> optuna.Study:
    return opened(
        name, store, studies.sampler("tpe", 0, 20, False), studies.pruner("none", 4), first
    )[0]


def objective(trial: optuna.Trial) -> float:
    trial.set_user_attr(BEGUN, trial.number)
    return trial.suggest_float("rate", 1e-5, 1e-3, log=True)


def died(study: optuna.Study, *, reported: int = 0) -> int:
    """A trial whose worker died: running, with parameters and reports, and a heartbeat long ago."""
    trial = study.ask()
    objective(trial)
    for epoch in range(1, reported + 1):
        trial.report(epoch / 10, epoch)
    storage = study._storage._backend  # type: ignore[attr-defined]
    storage.record_heartbeat(trial._trial_id)
    with storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")
        )
    return trial.number


def test_a_dead_trial_goes_on_under_another_number_with_its_values(store: studies.Storage) -> None:
    study = begin(store)
    number = died(study, reported=2)
    assert step(study, 1) == "wait"
    repair(study, 1)
    (group,) = lineages(study)
    assert [trial.state for trial in group] == [TrialState.FAIL, TrialState.WAITING] and group[
        0
    ].number == number
    assert group[1].params == group[0].params and group[1].intermediate_values == {1: 0.1, 2: 0.2}
    assert step(study, 1) == "start" and not settled(group)
    repair(study, 1)
    assert len(study.trials) == 2, "a second repair queues nothing more"
    study.optimize(objective, n_trials=1)
    assert step(study, 1) == "end" and lineages(study)[0][-1].params == group[0].params


def test_a_trial_without_a_first_heartbeat_is_found_too(store: studies.Storage) -> None:
    study = begin(store)
    study.ask()
    repair(study, 1)
    assert study.trials[0].state is TrialState.RUNNING, "it may still begin"
    time.sleep(4.5)
    repair(study, 1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_given_back_is_queued_again_and_one_that_failed_for_a_reason_is_not(
    store: studies.Storage,
) -> None:
    study = begin(store)

    def stopped(trial: optuna.Trial) -> float:
        objective(trial)
        raise KeyboardInterrupt

    def bad(trial: optuna.Trial) -> float:
        trial.set_user_attr(FAILURE, "the loss is NaN or infinite")
        raise ValueError

    with pytest.raises(KeyboardInterrupt):
        study.optimize(stopped, n_trials=1)
    assert lost(lineages(study)[0])
    repair(study, 1)
    assert study.trials[1].state is TrialState.WAITING
    study.optimize(objective, n_trials=1)
    study.optimize(bad, n_trials=1, catch=(ValueError,))
    failed = lineages(study)[1]
    assert settled(failed) and studies.failure(failed) == "the loss is NaN or infinite"
    repair(study, 1)
    assert len(study.trials) == 3 and step(study, 2) == "end" and step(study, 3) == "start"


def test_whoever_asks_for_trials_outlives_a_lost_connection(
    store: studies.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin(store)
    study.optimize(objective, n_trials=1)
    get_trials = study.get_trials
    for ask in (studies.lineages, lambda study: studies.seconds(study, TrialState.COMPLETE)):
        failures = [studies.StorageInternalError("the connection is gone")]

        def cut(failures: list[Exception] = failures, **values: Any) -> Any:
            if failures:
                raise failures.pop()
            return get_trials(**values)

        monkeypatch.setattr(study, "get_trials", cut)
        assert ask(study) and not failures


def test_a_trial_that_always_kills_its_worker_is_given_up(store: studies.Storage) -> None:
    study = begin(store)
    for _ in range(studies.MAX_TRIES):
        died(study)
        repair(study, 1)
    (group,) = lineages(study)
    assert len(group) == studies.MAX_TRIES and settled(group) and step(study, 1) == "end"
    assert studies.failure(group) == f"its worker died {studies.MAX_TRIES} times"


def test_workers_that_start_together_agree_which_trial_is_one_too_many(
    store: studies.Storage,
) -> None:
    study = begin(store)
    numbers = [study.ask().number for _ in range(4)]
    assert [one_too_many(study, number, 3) for number in numbers] == [False, False, False, True]
    study.trials[3]
    study.tell(3, state=TrialState.FAIL)
    # The retry of a dead trial belongs, although its number is beyond the wanted ones.
    study.tell(0, state=TrialState.FAIL)
    repair(study, 1)
    retry = study.ask().number
    assert retry == 4 and not one_too_many(study, retry, 3)


def test_of_two_retries_of_one_failure_the_second_is_dropped(store: studies.Storage) -> None:
    study = begin(store)
    died(study)
    optuna.storages.fail_stale_trials(study)
    studies._retry(study, study.trials[0])  # as another process that repairs at the same moment
    assert len(study.trials) == 3
    first, second = study.ask().number, study.ask().number
    assert not one_too_many(study, first, 5) and one_too_many(study, second, 5)
    study.trials[second]
    storage: Any = study._storage
    storage.set_trial_user_attr(study.trials[second]._trial_id, EXCESS, True)
    study.tell(second, state=TrialState.FAIL)
    assert [[trial.number for trial in group] for group in lineages(study)] == [[0, first]]


def test_one_of_many_makes_the_study_and_all_see_its_first_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    studies.storage(url, 1)
    first = [
        ({"rate": 1e-4}, {studies.DEFAULTS: "yolox"}),
        ({"rate": 2e-4}, {studies.DEFAULTS: "ssd"}),
    ]
    seen: list[tuple[int, bool]] = []

    def open_it() -> None:
        study, made = opened(
            "s",
            studies.storage(url, 1),
            studies.sampler("tpe", 0, 20, False),
            studies.pruner("none", 4),
            first,
        )
        seen.append((len(study.get_trials()), made))

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(2, False), (2, False), (2, False), (2, True)]
    assert [
        trial.user_attrs[studies.DEFAULTS] for trial in begin(studies.storage(url, 1), first).trials
    ] == ["yolox", "ssd"]


def test_a_study_that_was_left_half_made_is_filled(
    store: studies.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store, [({"rate": 1e-4}, {})])
    monkeypatch.setattr(studies, "wait_until", lambda _: None)
    study = begin(store, [({"rate": 1e-4}, {}), ({"rate": 2e-4}, {})])
    study.optimize(objective, n_trials=2)
    assert [trial.params["rate"] for trial in study.trials] == [1e-4, 2e-4]


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_what_is_sampled_depends_on_seed_and_number_alone(kind: str, tmp_path: Path) -> None:
    def values(name: str, seed: int, restart: int) -> list[float]:
        store = studies.storage(f"sqlite:///{tmp_path / name}.db", 1)
        for number in range(12):
            if number in (0, restart):
                study = opened(
                    "s",
                    store,
                    studies.sampler(kind, seed, 12, False),
                    studies.pruner("none", 4),
                    [],
                )[0]
            study.optimize(objective, n_trials=1)
        return [trial.params["rate"] for trial in study.trials]

    assert values("a", 0, restart=0) == values("b", 0, restart=7)
    assert len(set(values("c", 0, 0))) == 12 and values("c", 0, 0)[:12] != values("d", 1, 0)


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_a_poor_trial_is_pruned_and_a_good_one_is_not(kind: str, store: studies.Storage) -> None:
    study = opened(
        kind, store, studies.sampler("random", 0, 20, False), studies.pruner(kind, 12), []
    )[0]

    def learns(end: float) -> int:
        def run(trial: optuna.Trial) -> float:
            for epoch in range(1, 13):
                trial.report(end * epoch / 12, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return end

        study.optimize(run, n_trials=1)
        return len(study.trials[-1].intermediate_values)

    for quality in (0.5, 0.52, 0.48, 0.51, 0.53, 0.5, 0.52, 0.51):
        learns(quality)
    assert (
        min(learns(0.05) for _ in range(6)) < 12
        and max(learns(0.6 + number / 100) for number in range(6)) == 12
    )


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    for url in ("nonsense", "oracle+nothing://x", "mysql://root@127.0.0.1/x"):
        with pytest.raises(UsageError, match="is no database"):
            studies.storage(url, 1)
    with pytest.raises(UnreachableError) as caught:
        studies.storage("postgresql://me:secret@127.0.0.1:9/sweeps", 1)
    assert "secret" not in str(caught.value) and "does not answer" in str(caught.value)
    with pytest.raises(UnreachableError):
        studies.storage(f"sqlite:///{tmp_path}/no/such/folder/x.db", 1)


def test_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def call() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise sqlalchemy.exc.OperationalError("select", {}, Exception("gone"))
        return "here"

    assert studies.patiently(call, pause=0.01) == "here" and len(tries) == 3
    monkeypatch.setattr(studies, "PATIENCE", 0.0)
    tries.clear()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        studies.patiently(call, pause=0.01)
