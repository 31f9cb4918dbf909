"""What a new sweep takes from earlier trainings, read from a real tracking store."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from optuna.trial import TrialState

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.traits import DatasetTraits
from detreg.defaults import FEW_IMAGES
from detreg.errors import UnreachableError
from detreg.params import build, to_texts
from detreg.sweeps import memory, sweep
from detreg.sweeps import study as studies
from detreg.sweeps.memory import MAX_REMEMBERED, RememberedValues, remember_values
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.request import make_request, parse_templates
from detreg.sweeps.storage import open_storage
from detreg.templates import TEMPLATES
from detreg.tracking import runs

FAR = DatasetTraits(images=3000, classes=80, boxes_per_image=20.0, box_side=0.02)
YOLOX = TEMPLATES["yolox"]
SHORT = {"base_model": "yolox_nano", "image_size": 64, "num_epochs": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def experiment(store: str) -> str:
    """Work in a new experiment, after the runs of the tests before are gone."""
    client = mlflow.MlflowClient()
    for old in client.search_experiments():
        for run in client.search_runs([old.experiment_id]):
            client.delete_run(run.info.run_id)
    return store


@pytest.fixture
def dataset(tiny: Path) -> Dataset:
    return load_dataset(tiny)


def plan_sweep(dataset: Dataset, tmp_path: Path, **values: object) -> Plan:
    storage = f"sqlite:///{tmp_path / 'sweeps.db'}"
    searched = {"space": "per_item_lrate frozen_stages=0:2"}
    request = make_request(parse_templates("yolox"), SHORT | searched | values)
    return make_plan(request, dataset.digest, storage)


def log_training(
    dataset: Dataset,
    rate: float,
    mAP: float,
    tags: Mapping[str, str] | None = None,
    recipe: str = FEW_IMAGES,
    **values: object,
) -> str:
    """Log a training as it is logged, without training."""
    params = build(YOLOX.params, SHORT | values)
    with runs.start_run(None, {runs.TEMPLATE: "yolox"} | dict(tags or {})) as run:
        # As `mlflow run` does, which logs `auto` first.
        run.log_params(to_texts(params) | {"recipe": recipe})
        run.log_params({"per_item_lrate.resolved": str(rate)})
        if params.frozen_stages is None:
            run.log_params({"frozen_stages.resolved": "0"})
        run.log_dataset(dataset)
        run.log_metrics({"mAP": mAP})
    return run.id


def get_defaults(dataset: Dataset, tmp_path: Path) -> tuple[float, int]:
    """Return the rate and the frozen stages of a sweep's first trial."""
    params = YOLOX.resolve(plan_sweep(dataset, tmp_path).get_first_params(YOLOX))
    assert params.per_item_lrate is not None
    assert params.frozen_stages is not None
    return params.per_item_lrate, params.frozen_stages


def as_other(dataset: Dataset, digest: str, traits: DatasetTraits) -> Dataset:
    return replace(dataset, name=digest, digest=digest, traits=traits)


def get_rates(remembered: list[RememberedValues]) -> list[float]:
    return [float(values.params["per_item_lrate"]) for values in remembered]


def test_the_best_of_the_nearest_datasets_come_first(dataset: Dataset, tmp_path: Path) -> None:
    near = as_other(dataset, "near", replace(dataset.traits, images=2 * dataset.traits.images))
    far = as_other(dataset, "far", FAR)
    log_training(far, 1e-3, 0.9)
    log_training(far, 2e-3, 0.8)
    log_training(near, 4e-4, 0.3)
    best = log_training(near, 5e-4, 0.4, frozen_stages=1)
    log_training(near, 6e-4, 0.2)

    remembered = remember_values(plan_sweep(dataset, tmp_path), dataset)
    assert get_rates(remembered) == [5e-4, 4e-4, 6e-4, 1e-3]
    assert remembered[0].params == {"per_item_lrate": 5e-4, "frozen_stages": 1}
    assert remembered[0].similarity == pytest.approx(1 / 1.25)
    assert str(remembered[0]) == f"had mAP 0.4000 on near (similarity 0.80), run {best}"


def test_values_are_compared_by_the_mean_of_their_seeds(dataset: Dataset, tmp_path: Path) -> None:
    log_training(dataset, 4e-4, 0.5)
    log_training(dataset, 4e-4, 0.1)
    log_training(dataset, 6e-4, 0.4)
    assert get_rates(remember_values(plan_sweep(dataset, tmp_path), dataset)) == [6e-4, 4e-4]


def test_other_lengths_sizes_and_models_are_farther_away(dataset: Dataset, tmp_path: Path) -> None:
    for change, rate in (
        ({"base_model": "yolox_s", "num_epochs": 4}, 1e-3),
        ({"num_epochs": 8}, 3e-4),
        ({"image_size": 128}, 2e-4),
        ({}, 4e-4),
    ):
        log_training(dataset, rate, 0.5, **change)
        log_training(dataset, rate * 1.1, 0.4, **change)
    remembered = remember_values(plan_sweep(dataset, tmp_path), dataset)
    assert get_rates(remembered) == pytest.approx([4e-4, 4.4e-4, 2e-4, 2.2e-4])
    assert [round(values.similarity, 2) for values in remembered] == [1.0, 1.0, 0.5, 0.5]


def test_what_is_not_comparable_is_left_out(dataset: Dataset, tmp_path: Path) -> None:
    log_training(dataset, 1e-3, 0.9, {runs.PRUNED: "after epoch 1 of 2", runs.TRIAL: "3"})
    log_training(dataset, 1e-3, 0.9, {runs.PARENT: "0" * 32})
    log_training(dataset, 1e-3, 0.9, {runs.STUDY: "the run of a sweep"})
    log_training(dataset, 0.5, 0.9)  # outside of the searched range
    rate, frozen_stages = get_defaults(dataset, tmp_path)
    # The defaults, which are tried anyway.
    log_training(dataset, rate, 0.9, frozen_stages=frozen_stages)
    resumed = {runs.PARENT: "0" * 32, runs.TRIAL: "4", runs.STUDY: "study"}
    log_training(dataset, 4e-4, 0.2, resumed)
    assert get_rates(remember_values(plan_sweep(dataset, tmp_path), dataset)) == [4e-4]


def test_another_recipe_is_farther_away(dataset: Dataset, tmp_path: Path) -> None:
    log_training(dataset, 4e-4, 0.5, recipe="published")
    log_training(dataset, 6e-4, 0.4, recipe="published")
    (first, second) = remember_values(plan_sweep(dataset, tmp_path), dataset)
    assert first.similarity == second.similarity == 0.5
    (first, _) = remember_values(plan_sweep(dataset, tmp_path, recipe="published"), dataset)
    assert first.similarity == 1.0


def test_runs_of_other_tools_and_versions_are_left_out(dataset: Dataset, tmp_path: Path) -> None:
    with mlflow.start_run(tags={runs.TEMPLATE: "yolox"}):
        mlflow.log_params({"per_item_lrate": "much"})
        mlflow.log_metric("mAP", 0.9)
    log_training(dataset, 4e-4, 0.2, {"detreg.template": "ssd"})
    assert remember_values(plan_sweep(dataset, tmp_path), dataset) == []


def test_few_trials_take_few_and_none_where_it_is_off(dataset: Dataset, tmp_path: Path) -> None:
    for number in range(6):
        log_training(dataset, 1e-4 * (number + 3), 0.1 * number)

    def count(**values: object) -> int:
        return len(remember_values(plan_sweep(dataset, tmp_path, **values), dataset))

    assert count() == MAX_REMEMBERED
    assert count(trials=3) == 2
    assert count(trials=1) == 0
    assert count(memory=False) == 0


def test_a_store_that_does_not_answer_is_a_warning(
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(template: str) -> list[object]:
        raise UnreachableError(f"no answer about {template}")

    monkeypatch.setattr(memory, "list_past_runs", fail)
    assert remember_values(plan_sweep(dataset, tmp_path), dataset) == []
    assert "Warning: earlier trainings are not known: no answer" in capsys.readouterr().err


def test_a_study_begins_with_the_defaults_and_then_what_is_remembered(
    dataset: Dataset, tmp_path: Path
) -> None:
    log_training(dataset, 4e-4, 0.5)
    log_training(dataset, 6e-4, 0.4)
    plan = plan_sweep(dataset, tmp_path)
    remembered = remember_values(plan, dataset)
    study, is_new = sweep.open_search_study(plan, open_storage(plan.storage, 60), remembered)
    assert is_new

    rates = []
    for trial in (study.ask(), study.ask(), study.ask()):
        _, params = plan.suggest_params(trial)
        rates.append(params.per_item_lrate)
        assert (studies.MEMORY_ATTR in trial.user_attrs) == (trial.number > 0)
    assert rates == [get_defaults(dataset, tmp_path)[0], 4e-4, 6e-4]
    assert not study.get_trials(states=(TrialState.WAITING,))
