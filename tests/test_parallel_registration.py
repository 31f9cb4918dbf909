"""Registering and promoting at once ends as doing so one by one does, whoever is killed when."""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from fake_registry import FakeRegistry, promote_by_score
from interleaving import Action, act_with_interruptions, kill, list_requests

from detreg.tracking import registry
from detreg.tracking.registered_model import (
    EVIDENCE_PREFIX,
    FORMER_HISTORY,
    MOVE_PREFIX,
    REASON,
    SCORE,
    read_state,
)

NAME = "boats"
NOW = time.time()
SCORES = (0.7, 0.8, 0.0)


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a registered model; `earlier` is where rollbacks lead, oldest first."""

    champion: int | None
    challenger: int | None
    earlier: tuple[int, ...]


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def make_registry(patch: pytest.MonkeyPatch, *scores: float) -> FakeRegistry:
    """Return a registry in use, in which versions with these scores were registered."""
    fake = FakeRegistry(NOW)
    fake.replace_mlflow(patch)
    for number, score in enumerate(scores):
        register(f"first-{number}", score)
    return fake


def register(run_id: str, score: float) -> registry.RegisteredVersion:
    return registry.register(
        NAME,
        "uri",
        run_id,
        score=score,
        dataset_digest="data",
        tags={},
        promotion=promote_by_score(score),
    )


def read_outcome(fake: FakeRegistry) -> Outcome:
    aliases = fake.content.aliases
    return Outcome(
        aliases.get("champion"), aliases.get("challenger"), read_state(NAME).standing.earlier
    )


def register_one_by_one(patch: pytest.MonkeyPatch, fake: FakeRegistry) -> Outcome:
    """Return what comes of registering the versions of `fake` in the order of their numbers."""
    versions = fake.content.versions
    scores = [float(versions[number].tags[SCORE]) for number in sorted(versions)]
    outcome = read_outcome(make_registry(patch, *scores))
    fake.replace_mlflow(patch)
    return outcome


def list_reasons(fake: FakeRegistry) -> list[str]:
    """Return the reasons that follow from what the registry holds, in the order of versions."""
    decisions = read_state(NAME).standing.decisions
    return [decisions[version].reason for version in fake.content.versions]


def count_requests(fake: FakeRegistry, action: Action) -> int:
    """Carry out an action, and return the number of its requests."""
    return len(list_requests(fake, action))


def add(run_id: str, score: float) -> Action:
    return lambda: register(run_id, score)


@pytest.mark.parametrize("first", SCORES)
@pytest.mark.parametrize("second", SCORES)
@pytest.mark.parametrize("before", [(), (0.75,), (0.1, 0.9)])
def test_a_registration_within_another_ends_as_one_after_the_other(
    patch: pytest.MonkeyPatch, first: float, second: float, before: tuple[float, ...]
) -> None:
    requests = count_requests(make_registry(patch, *before), add("a", first))
    for point in range(requests):
        fake = make_registry(patch, *before)
        act_with_interruptions(fake, add("a", first), {point: add("b", second)})

        assert len(fake.content.versions) == len(before) + 2
        assert read_outcome(fake) == register_one_by_one(patch, fake), point


@pytest.mark.parametrize("scores", list(itertools.permutations((0.6, 0.7, 0.8))))
def test_two_registrations_within_a_third_end_as_one_after_the_other(
    patch: pytest.MonkeyPatch, scores: tuple[float, float, float]
) -> None:
    actions = [add(run_id, score) for run_id, score in zip("abc", scores, strict=True)]
    requests = count_requests(make_registry(patch, 0.65), actions[0])
    for points in itertools.combinations(range(requests), 2):
        fake = make_registry(patch, 0.65)
        act_with_interruptions(fake, actions[0], dict(zip(points, actions[1:], strict=True)))
        assert read_outcome(fake) == register_one_by_one(patch, fake), points


@pytest.mark.parametrize("scores", list(itertools.permutations((0.7, 0.8))))
@pytest.mark.parametrize("last", [0.0, 0.75, 0.9])
def test_the_next_call_repairs_what_a_killed_one_left(
    patch: pytest.MonkeyPatch, scores: tuple[float, float], last: float
) -> None:
    first, second = (add(run_id, score) for run_id, score in zip("ab", scores, strict=True))
    requests = count_requests(make_registry(patch, 0.5), first)
    for killed_at in range(requests + 1):
        for point in range(killed_at):
            fake = make_registry(patch, 0.5)
            act_with_interruptions(fake, first, {point: second, killed_at: kill})
            register("c", last)
            assert fake.content.aliases.get("champion") == read_outcome(fake).champion
            assert fake.content.aliases.get("champion") == read_state(NAME).standing.champion

            # One that was killed before it was compared is when it is registered again.
            first()
            assert read_outcome(fake) == register_one_by_one(patch, fake), (point, killed_at)
            reasons = [version.tags.get(REASON) for version in fake.content.versions.values()]
            assert reasons == list_reasons(fake), (point, killed_at)


def test_a_run_that_registers_again_after_a_kill_gets_one_version(
    patch: pytest.MonkeyPatch,
) -> None:
    requests = count_requests(make_registry(patch, 0.5), add("a", 0.7))
    for killed_at in range(requests):
        fake = make_registry(patch, 0.5)
        act_with_interruptions(fake, add("a", 0.7), {killed_at: kill})
        again = register("a", 0.7)
        assert (again.version, again.alias) == ("2", "champion")
        assert again.reason.startswith("it is better than version 1 on the same 100 images")
        assert read_outcome(fake) == Outcome(2, None, (1,))


def test_an_answer_that_was_lost_does_not_double_the_version(patch: pytest.MonkeyPatch) -> None:
    fake = make_registry(patch, 0.5)
    fake.answers_lost = 2
    assert register("a", 0.7).version == "2"
    assert sorted(fake.content.versions) == [1, 2]
    assert register("b", 0.8).version == "5"
    assert read_outcome(fake) == Outcome(5, None, (1, 2))


def test_a_duplicate_that_is_still_there_is_ignored(patch: pytest.MonkeyPatch) -> None:
    fake = make_registry(patch, 0.5)
    fake.answers_lost = 1
    # Killed after the creation, before the duplicate was deleted and the version compared.
    act_with_interruptions(fake, add("a", 0.7), {6: kill})
    assert sorted(fake.content.versions) == [1, 2, 3]
    assert register("b", 0.6).alias == "champion"
    assert read_outcome(fake) == Outcome(4, 2, (1,))
    assert register("a", 0.7).alias == "champion"
    assert read_outcome(fake) == Outcome(2, 4, (1,))


def test_the_same_run_registered_by_two_processes_gets_one_version(
    patch: pytest.MonkeyPatch,
) -> None:
    requests = count_requests(make_registry(patch, 0.5), add("a", 0.7))
    for point in range(requests):
        fake = make_registry(patch, 0.5)
        act_with_interruptions(fake, add("a", 0.7), {point: add("a", 0.7)})
        assert sorted(fake.content.versions) == [1, 2]
        assert read_outcome(fake) == Outcome(2, None, (1,))


def promote(version: int) -> Action:
    return lambda: registry.promote(NAME, str(version))


def roll_back() -> None:
    registry.rollback(NAME)


@pytest.mark.parametrize("score", [0.2, 0.8])
def test_a_promotion_and_a_registration_at_once_end_as_in_one_of_both_orders(
    patch: pytest.MonkeyPatch, score: float
) -> None:
    before = (0.1, 0.9, 0.3)
    possible = []
    for order in itertools.permutations((promote(3), add("a", score))):
        fake = make_registry(patch, *before)
        for action in order:
            action()
        possible.append(read_outcome(fake))

    for outer, inner in itertools.permutations((promote(3), add("a", score))):
        for point in range(count_requests(make_registry(patch, *before), outer)):
            fake = make_registry(patch, *before)
            act_with_interruptions(fake, outer, {point: inner})
            assert read_outcome(fake) in possible


@pytest.mark.parametrize("move", [promote(1), roll_back])
def test_what_was_moved_by_hand_stays_until_a_better_one_comes(
    patch: pytest.MonkeyPatch, move: Action
) -> None:
    fake = make_registry(patch, 0.3, 0.8, 0.5)
    move()
    assert register("a", 0.2).alias == "challenger"
    assert fake.content.aliases == {"champion": 1, "challenger": 4}
    assert register("b", 0.4).alias == "champion"
    assert fake.content.aliases["champion"] == 5


@pytest.mark.parametrize("move", [promote(1), roll_back])
def test_a_move_that_was_killed_is_done_or_not_begun(
    patch: pytest.MonkeyPatch, move: Action
) -> None:
    requests = count_requests(make_registry(patch, 0.3, 0.8), move)
    champions = set()
    for killed_at in range(requests):
        fake = make_registry(patch, 0.3, 0.8)
        act_with_interruptions(fake, move, {killed_at: kill})
        register("a", 0.1)
        has_begun = any(key.startswith(MOVE_PREFIX) for key in fake.content.tags)
        assert fake.content.aliases["champion"] == (1 if has_begun else 2)
        champions.add(fake.content.aliases["champion"])
    assert champions == {1, 2}


def test_two_promotions_at_once_both_are_in_the_history(patch: pytest.MonkeyPatch) -> None:
    requests = count_requests(make_registry(patch, 0.9, 0.1, 0.2), promote(2))
    for point in range(requests):
        fake = make_registry(patch, 0.9, 0.1, 0.2)
        act_with_interruptions(fake, promote(2), {point: promote(3)})
        assert read_outcome(fake) in (Outcome(2, None, (1, 3)), Outcome(3, None, (1, 2)))
        kinds = [json.loads(text)["kind"] for text in fake.content.tags.values()]
        assert kinds == ["promote", "promote"]


def test_an_alias_that_was_moved_on_mlflows_page_is_the_truth(patch: pytest.MonkeyPatch) -> None:
    fake = make_registry(patch, 0.3, 0.8, 0.5)
    fake.content.aliases["champion"] = 3
    assert register("a", 0.4).alias == "challenger"
    assert read_outcome(fake) == Outcome(3, 4, (1, 2))

    assert registry.rollback(NAME).version == "2"
    assert register("b", 0.7).alias == "challenger"
    assert read_outcome(fake) == Outcome(2, 5, (1,))


def test_an_alias_that_a_killed_process_did_not_set_is_no_move(
    patch: pytest.MonkeyPatch,
) -> None:
    requests = list_requests(make_registry(patch, 0.3), add("a", 0.8))
    fake = make_registry(patch, 0.3)
    act_with_interruptions(fake, add("a", 0.8), {requests.index("set alias champion"): kill})
    assert (len(fake.content.versions), fake.content.aliases) == (2, {"champion": 1})
    register("b", 0.5)
    assert read_outcome(fake) == Outcome(2, 3, (1,))

    # A day later nobody can be about to set it any more.
    fake.content.aliases["champion"] = 1
    fake.content.versions[2].creation_timestamp -= 90_000_000
    register("c", 0.2)
    assert read_outcome(fake) == Outcome(1, 4, (1, 2))


def test_a_model_of_an_earlier_release_keeps_its_champions(patch: pytest.MonkeyPatch) -> None:
    fake = make_registry(patch, 0.3, 0.8, 0.5, 0.6)
    fake.content.aliases["champion"] = 4
    fake.content.tags[FORMER_HISTORY] = json.dumps(["1", "2", "3", "4"])

    assert register("a", 0.55).alias == "challenger"
    assert read_outcome(fake) == Outcome(4, 5, (1, 2, 3))
    assert [registry.rollback(NAME).version for _ in range(3)] == ["3", "2", "1"]
    register("b", 0.4)
    assert read_outcome(fake) == Outcome(6, 5, (1,))


def test_a_version_that_was_never_compared_is_given_up_after_a_day(
    patch: pytest.MonkeyPatch,
) -> None:
    requests = list_requests(make_registry(patch, 0.5), add("a", 0.7))
    fake = make_registry(patch, 0.5)
    act_with_interruptions(fake, add("a", 0.7), {requests.index("set_model_version_tag"): kill})
    assert read_state(NAME).standing.decisions[2].is_waiting

    # While it may still be compared, another version is compared with it as well.
    register("b", 0.6)
    tags = fake.content.versions[3].tags
    assert {EVIDENCE_PREFIX + "1", EVIDENCE_PREFIX + "2"} <= tags.keys()
    assert read_outcome(fake) == Outcome(3, 2, (1,))

    fake.content.versions[2].creation_timestamp -= 90_000_000
    register("c", 0.55)
    assert not read_state(NAME).standing.decisions[2].is_waiting
    again = register("a", 0.7)
    assert (again.version, again.alias) == ("2", "challenger")
    assert "the process that registered it ended before the two were compared" in again.reason
    assert read_outcome(fake) == Outcome(3, 4, (1,))
