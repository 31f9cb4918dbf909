"""Registering and promoting at once through an MLflow server ends as doing so one by one does.

test_parallel_registration.py has the same with a registry in memory, and many more cases.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
import pytest
import requests
from conftest import free_port
from fake_registry import promote_by_score
from interleaving import Action, act_with_interruptions, ignore, list_requests
from mlflow import MlflowClient
from mlflow_server import MlflowServer

from detreg.tracking import registry
from detreg.tracking.registered_model import (
    CHALLENGER,
    CHAMPION,
    DIGEST,
    EID,
    REASON,
    SCORE,
    read_state,
)

NAMES = (f"model-{number}" for number in itertools.count())
"""A registered model for each interleaving."""


class HttpRequests:
    """The requests of this process, each named by its method and path."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.before_request: Callable[[str], None] = ignore
        send = requests.Session.send

        def send_after(
            session: requests.Session, request: requests.PreparedRequest, **options: Any
        ) -> requests.Response:
            self.before_request(f"{request.method} {request.path_url}")
            return send(session, request, **options)

        patch.setattr(requests.Session, "send", send_after)


@dataclass(frozen=True)
class Registry:
    """The server's registry, and a model that is logged there."""

    run_id: str
    source: str
    http: HttpRequests

    @property
    def model_uri(self) -> str:
        return f"runs:/{self.run_id}/model"

    def make_model(self, scores: Sequence[float]) -> str:
        """Return a registered model whose versions have these scores, of which the 2nd is best."""
        name = next(NAMES)
        client = MlflowClient()
        if scores:
            client.create_registered_model(name)
        for number, score in enumerate(scores, start=1):
            tags = {SCORE: str(score), DIGEST: "data", EID: f"first-{number}", REASON: "score"}
            client.create_model_version(name, self.source, self.run_id, tags)
        if scores:
            client.set_registered_model_alias(name, CHAMPION, "2")
            client.set_registered_model_alias(name, CHALLENGER, str(len(scores)))
        return name


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a registered model; the scores are those of all versions in order."""

    scores: tuple[float, ...]
    champion: int | None
    challenger: int | None
    earlier: tuple[int, ...]

    @classmethod
    def read(cls, name: str) -> "Outcome":
        state = read_state(name)
        scores = [float(state.versions[number].tags[SCORE]) for number in sorted(state.versions)]
        aliases = state.aliases
        return cls(
            tuple(scores), aliases.get(CHAMPION), aliases.get(CHALLENGER), state.standing.earlier
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    before = mlflow.get_tracking_uri()
    with MlflowServer(folder / "server", free_port()) as server, pytest.MonkeyPatch.context() as p:
        mlflow.set_tracking_uri(server.uri)
        client = MlflowClient()
        run = client.create_run("0").info
        (folder / "MLmodel").write_text("flavors: {}\n")
        client.log_artifact(run.run_id, str(folder / "MLmodel"), "model")
        yield Registry(run.run_id, f"{run.artifact_uri}/model", HttpRequests(p))
    mlflow.set_tracking_uri(before)


Act = Callable[[Registry, str], object]


def add(run_id: str, score: float) -> Act:
    def act(shared: Registry, name: str) -> object:
        return registry.register(
            name,
            shared.model_uri,
            run_id,
            score=score,
            dataset_digest="data",
            tags={},
            promotion=promote_by_score(score),
        )

    return act


def promote(version: int) -> Act:
    return lambda _, name: registry.promote(name, str(version))


THREE = (0.1, 0.9, 0.3)
PAIRS = [
    pytest.param((), add("a", 0.7), add("b", 0.8), id="the first two versions"),
    pytest.param(THREE, add("a", 0.95), promote(3), id="a promotion within a registration"),
    pytest.param(THREE, promote(3), add("a", 0.95), id="a registration within a promotion"),
]
MORE_PAIRS = [
    pytest.param((), add("a", 0.8), add("b", 0.7), id="the better version first"),
    pytest.param(THREE, add("a", 0.95), add("b", 0.97), id="two better ones"),
    pytest.param(THREE, add("a", 0.2), promote(3), id="a promotion within a worse one"),
    pytest.param(THREE, promote(1), promote(3), id="two promotions"),
]


def bind(act: Act, shared: Registry, name: str) -> Action:
    return lambda: act(shared, name)


def check_interleavings(
    shared: Registry,
    scores: Sequence[float],
    outer: Act,
    inner: Act,
    is_point: Callable[[str], bool],
) -> int:
    """Carry out `inner` before each request of `outer` that is a point; return how many there are.

    The result must be that of one order, and where both create a version, that of their numbers.
    """
    one_by_one = []
    for order in itertools.permutations((outer, inner)):
        name = shared.make_model(scores)
        for act in order:
            act(shared, name)
        one_by_one.append(Outcome.read(name))

    name = shared.make_model(scores)
    sent = list_requests(shared.http, bind(outer, shared, name))
    points = [number for number, request in enumerate(sent) if is_point(request)]
    for point in points:
        name = shared.make_model(scores)
        interruptions = {point: bind(inner, shared, name)}
        act_with_interruptions(shared.http, bind(outer, shared, name), interruptions)
        # The scores show which version came first.
        assert Outcome.read(name) in one_by_one, sent[point]
    return len(points)


@pytest.mark.parametrize(("scores", "outer", "inner"), PAIRS)
def test_what_comes_before_a_write_changes_nothing(
    shared: Registry, scores: Sequence[float], outer: Act, inner: Act
) -> None:
    """Between what was read and what is written because of it."""
    points = check_interleavings(shared, scores, outer, inner, lambda sent: sent.startswith("POST"))
    assert points >= 4


@pytest.mark.soak
@pytest.mark.parametrize(("scores", "outer", "inner"), PAIRS + MORE_PAIRS)
def test_what_comes_between_any_two_requests_changes_nothing(
    shared: Registry, scores: Sequence[float], outer: Act, inner: Act
) -> None:
    points = check_interleavings(shared, scores, outer, inner, lambda _: True)
    assert points > 12
