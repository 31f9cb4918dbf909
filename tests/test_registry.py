"""Which version is champion, in a real registry."""

import itertools
import math
from collections.abc import Callable, Iterator

import mlflow
import pytest
from fake_registry import promote_by_score
from mlflow import MlflowClient
from toy_detector import write_toy_model

from detreg.errors import NotFoundError, UnreachableError, UsageError
from detreg.serving.packaging import log_model
from detreg.tracking.decision import Candidate, Evidence
from detreg.tracking.registered_model import DIGEST, EID, REASON, SCORE
from detreg.tracking.registry import Promotion, RegisteredVersion, promote, register, rollback

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Log a model in a store of its own, and return its URI and its run."""
    folder = tmp_path_factory.mktemp("registry")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("toys", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("toys")
    with mlflow.start_run() as run:
        info = log_model(write_toy_model(folder / "toy.onnx"))
    yield info.model_uri, run.info.run_id
    mlflow.set_tracking_uri(before)


class RegisteredModel:
    """A registered model with a name of its own, whose versions are all the same ONNX file."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self.name = f"model_{next(NUMBERS)}"

    def add_version(
        self,
        score: float,
        digest: str = "data",
        run_id: str | None = None,
        promotion: Promotion | None = None,
    ) -> RegisteredVersion:
        """Register the model as that of `run_id`; by default as that of another run each time."""
        return register(
            self.name,
            self.uri,
            run_id or f"{next(NUMBERS):032x}",
            score=score,
            dataset_digest=digest,
            tags={"template": "yolox"},
            promotion=promotion or promote_by_score(score),
        )

    @property
    def aliases(self) -> dict[str, str]:
        aliases = MlflowClient().get_registered_model(self.name).aliases
        return {alias: str(version) for alias, version in aliases.items()}


@pytest.fixture
def model(logged: tuple[str, str]) -> RegisteredModel:
    return RegisteredModel(*logged)


def test_the_champion_is_the_best_on_the_same_data(model: RegisteredModel) -> None:
    first = model.add_version(0.3)
    worse = model.add_version(0.2)
    better = model.add_version(0.4)
    equal = model.add_version(0.4)

    assert (first.version, first.alias) == ("1", "champion")
    assert (worse.version, worse.alias) == ("2", "challenger")
    assert (better.version, better.alias) == ("3", "champion")
    assert (equal.version, equal.alias) == ("4", "challenger")

    assert first.reason == "there was no champion"
    assert worse.reason == (
        "it is worse than version 1, the champion, on the same 100 images: mAP 0.2000 against "
        "0.3000, -0.1000 (95 % interval -0.1000 to -0.1000); "
        f"to promote it by hand: detreg promote {model.name} 2"
    )
    assert equal.reason.startswith("it is not shown to be better than version 3, the champion, on")
    assert better.reason == (
        "it is better than version 1 on the same 100 images: mAP 0.4000 against 0.3000, +0.1000 "
        "(95 % interval +0.1000 to +0.1000)"
    )
    assert model.aliases == {"champion": "3", "challenger": "4"}


def test_versions_on_other_data_are_compared_on_the_new_ones(model: RegisteredModel) -> None:
    model.add_version(0.9)
    evidence = Evidence(50, 0.4, 0.3, 0.01, 0.2, note="60 left out")
    measured: list[Candidate] = []

    def measure(champion: Candidate) -> Evidence:
        measured.append(champion)
        return evidence

    other = model.add_version(0.4, digest="other", promotion=Promotion("better", measure))
    assert [(found.version, found.dataset_digest) for found in measured] == [(1, "data")]
    assert (other.alias, model.aliases) == ("champion", {"champion": "2"})
    assert other.reason == (
        "it is better than version 1 on the same 50 images (60 left out): mAP 0.4000 against "
        "0.3000, +0.1000 (95 % interval +0.0100 to +0.2000)"
    )


def test_what_cannot_be_compared_is_told(model: RegisteredModel) -> None:
    model.add_version(0.3)
    problem = Promotion("better", lambda _: Evidence(problem="it knows other classes"))
    other = model.add_version(0.9, promotion=problem)
    assert other.alias == "challenger"
    assert other.reason == (
        "it cannot be compared with version 1, the champion: it knows other classes; "
        f"to promote it by hand: detreg promote {model.name} 2"
    )


@pytest.mark.parametrize(
    ("rule", "low", "alias"),
    [
        ("better", 0.001, "champion"),
        ("better", 0.0, "challenger"),
        ("not_worse:0.01", -0.009, "champion"),
        ("not_worse:0.01", -0.011, "challenger"),
        ("never", 0.5, "challenger"),
    ],
)
def test_each_rule_asks_for_its_own_evidence(
    model: RegisteredModel, rule: str, low: float, alias: str
) -> None:
    model.add_version(0.3)
    promotion = Promotion(rule, lambda _: Evidence(80, 0.31, 0.3, low, 0.6))
    entry = model.add_version(0.31, promotion=promotion)
    assert entry.alias == alias
    assert ("detreg promote" in entry.reason) == (alias == "challenger")


def test_never_is_obeyed_where_there_is_no_champion(model: RegisteredModel) -> None:
    entry = model.add_version(0.3, promotion=promote_by_score(0.3, "never"))
    assert (entry.alias, model.aliases) == ("challenger", {"challenger": "1"})
    assert entry.reason.startswith("its run had promote_if=never")


def test_versions_of_an_earlier_release_keep_their_champion(model: RegisteredModel) -> None:
    client = MlflowClient()
    client.create_registered_model(model.name)
    source = client.get_run(model.run_id).info.artifact_uri
    for score in (0.3, 0.4, 0.35):
        tags = {SCORE: str(score), DIGEST: "data", EID: f"before-{score}", REASON: "score"}
        client.create_model_version(model.name, source, model.run_id, tags)
    client.set_registered_model_alias(model.name, "champion", "2")
    client.set_registered_model_alias(model.name, "challenger", "3")

    assert model.add_version(0.39).alias == "challenger"
    assert model.aliases == {"champion": "2", "challenger": "4"}
    assert rollback(model.name).version == "1"
    assert model.add_version(0.31).alias == "champion"


def test_deleting_a_version_does_not_undo_later_decisions(model: RegisteredModel) -> None:
    for score in (0.3, 0.2, 0.4):
        model.add_version(score)
    # Version 3 was never compared with version 2, which is the first one now.
    MlflowClient().delete_model_version(model.name, "1")
    assert model.add_version(0.1).alias == "challenger"
    assert model.aliases == {"champion": "3", "challenger": "4"}
    assert rollback(model.name).version == "2"


def test_a_version_carries_score_data_run_and_template(model: RegisteredModel) -> None:
    entry = model.add_version(0.1 + 0.2, run_id=model.run_id)
    version = MlflowClient().get_model_version(model.name, entry.version)
    assert version.tags == {
        "mAP": "0.30000000000000004",
        "dataset_digest": "data",
        "eid": model.run_id,
        "template": "yolox",
        "reason": "there was no champion",
        "detreg.promote_if": "better",
        "detreg.decision": "champion",
    }
    assert version.run_id == model.run_id


@pytest.mark.parametrize(
    ("score", "figure"),
    [(0.0, "0.0000"), (0.00004, "0.0000"), (math.nan, "undefined")],
)
def test_a_model_that_finds_nothing_is_challenger_until_promoted_by_hand(
    model: RegisteredModel,
    score: float,
    figure: str,
) -> None:
    entry = model.add_version(score)
    assert (entry.alias, model.aliases) == ("challenger", {"challenger": "1"})
    assert entry.reason == (
        f"mAP is {figure}, and a model that finds nothing becomes champion by hand only; "
        f"to promote it by hand: detreg promote {model.name} 1"
    )
    assert MlflowClient().get_model_version(model.name, "1").tags["reason"] == entry.reason

    assert promote(model.name, "1").reason == "promoted by hand"
    assert model.aliases == {"champion": "1"}


def test_the_first_that_finds_something_is_champion_after_those_that_found_nothing(
    model: RegisteredModel,
) -> None:
    model.add_version(0.0)
    found = model.add_version(0.0001)
    assert (found.alias, found.reason) == ("champion", "there was no champion")
    assert model.aliases == {"challenger": "1", "champion": "2"}


@pytest.mark.parametrize("score", [0.0, 0.00004, math.nan])
def test_a_champion_that_finds_nothing_is_beaten_by_what_finds_something(
    model: RegisteredModel,
    score: float,
) -> None:
    model.add_version(score)
    promote(model.name, "1")
    assert model.add_version(0.00004).alias == "challenger"
    assert model.add_version(0.0001).alias == "champion"
    assert model.aliases == {"challenger": "2", "champion": "3"}


def test_a_model_that_finds_nothing_does_not_replace_the_champion(model: RegisteredModel) -> None:
    model.add_version(0.3)
    assert model.add_version(0.0).alias == "challenger"
    assert model.aliases == {"champion": "1", "challenger": "2"}


def test_registering_again_takes_the_version_that_the_run_has(model: RegisteredModel) -> None:
    first = model.add_version(0.3, run_id=model.run_id)
    assert model.add_version(0.3, run_id=model.run_id) == first
    assert model.aliases == {"champion": "1"}


def test_rolling_back_goes_back_one_champion_a_call(model: RegisteredModel) -> None:
    for score in (0.1, 0.2, 0.3):
        model.add_version(score)
    assert rollback(model.name).version == "2"
    assert rollback(model.name).version == "1"
    with pytest.raises(UsageError, match="no earlier champion"):
        rollback(model.name)
    assert model.aliases == {"champion": "1"}


def test_promoting_by_hand_can_be_rolled_back(model: RegisteredModel) -> None:
    model.add_version(0.3)
    model.add_version(0.2)
    assert promote(model.name, "2").reason == "promoted by hand, in place of version 1"
    assert model.aliases == {"champion": "2"}, "it is no longer a challenger"
    assert promote(model.name, "2").reason == "it is the champion already"
    assert rollback(model.name).reason == "rolled back from version 2"
    assert model.aliases == {"champion": "1"}


def test_a_deleted_version_is_passed_over(model: RegisteredModel) -> None:
    for score in (0.1, 0.2, 0.3):
        model.add_version(score)
    MlflowClient().delete_model_version(model.name, "2")
    assert rollback(model.name).version == "1"


@pytest.mark.parametrize(
    ("change", "write", "next_rollback"),
    [
        # Killed before anything was written, the change has not happened.
        (lambda name: promote(name, "1"), "set_registered_model_tag", "2"),
        (rollback, "set_registered_model_tag", "2"),
        # Killed before the alias is set, the next call sets it.
        (lambda name: promote(name, "1"), "set_registered_model_alias", "3"),
        (rollback, "set_registered_model_alias", "1"),
    ],
)
def test_a_crash_between_two_writes_leaves_the_truth(
    model: RegisteredModel,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[str], RegisteredVersion],
    write: str,
    next_rollback: str,
) -> None:
    for score in (0.1, 0.2, 0.3):
        model.add_version(score)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, write, crash)
        with pytest.raises(KeyboardInterrupt):
            change(model.name)

    assert rollback(model.name).version == next_rollback


def test_what_the_registry_does_not_have_is_not_found(model: RegisteredModel) -> None:
    model.add_version(0.1)
    with pytest.raises(NotFoundError):
        promote(model.name, "9")
    with pytest.raises(NotFoundError):
        promote("nothing", "1")
    with pytest.raises(NotFoundError):
        rollback("nothing")
    with pytest.raises(NotFoundError, match="cannot be registered"):
        register(
            model.name,
            f"runs:/{'f' * 32}/model",
            "f" * 32,
            score=0.1,
            dataset_digest="data",
            tags={},
            promotion=promote_by_score(0.1),
        )


def test_a_name_that_mlflow_does_not_take_is_refused(model: RegisteredModel) -> None:
    with pytest.raises(UsageError, match=r"must not be empty nor contain .* got 'a/b'"):
        register(
            "a/b",
            model.uri,
            model.run_id,
            score=0.1,
            dataset_digest="data",
            tags={},
            promotion=promote_by_score(0.1),
        )


def test_a_registry_that_does_not_answer_is_unreachable(
    logged: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(UnreachableError):
            rollback("anything")
    finally:
        mlflow.set_tracking_uri(store)
