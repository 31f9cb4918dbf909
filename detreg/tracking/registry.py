"""Versions in MLflow's model registry, and which of them is served.

The alias `champion` is what is served; `challenger` is the newest version that did not become
champion. standing.py computes both from the versions' tags and from the moves by hand, which are
tags of the registered model. Any number of processes may register and promote at once, and each may
be killed between any two writes, because all of them follow one protocol:

1. Write what cannot be computed: the version with all its tags in one request, or the move. Then
   the version's evidence: what comes of comparing it with each version that may be champion when
   its turn comes. Until that is written the version is no champion.
2. Look, set the aliases to what is computed, and look again, until nothing is left to set. So the
   process that sets an alias last has seen all versions that were there before.
3. Write that this is done: the version's reason, or that the move is settled.

A process that is killed after 1 has registered or moved; the next one sets the aliases. An alias
that differs from what is computed while nobody is between 1 and 3 was moved by something else than
this module, such as MLflow's page. It is the truth, and recorded as a move before anything else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mlflow import MlflowClient

from detreg.errors import UsageError
from detreg.mlflow_errors import retry_on_conflict, translate_mlflow_errors
from detreg.mlflow_stores import create_missing_stores
from detreg.model_names import find_name_problem
from detreg.tracking.decision import Candidate, Evidence
from detreg.tracking.foreign_moves import is_being_registered, record_foreign_move
from detreg.tracking.registered_model import (
    CHALLENGER,
    CHAMPION,
    DIGEST,
    EID,
    PROMOTE_IF,
    REASON,
    SCORE,
    RegistryState,
    create_version,
    delete_alias,
    delete_version,
    has_model,
    list_versions,
    plan_move,
    read_state,
    set_alias,
    set_decision,
    set_reason,
    write_evidence,
    write_move,
)
from detreg.tracking.standing import MoveKind, find_champions_to_compare

PROMOTED = "promoted by hand"
ROLLED_BACK = "rolled back"
HAND_REASONS = (PROMOTED, ROLLED_BACK)
"""How the reasons of moves by hand begin."""
ABANDONED = "the process that registered it ended before the two were compared"


@dataclass(frozen=True)
class Promotion:
    """How a version is to become champion: the text of its rule, and how to compare it.

    `measure` is called with a version that may be champion. It raises UnreachableError, or returns
    why the two cannot be compared.
    """

    rule: str
    measure: Callable[[Candidate], Evidence]


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry, the alias it was given, and why."""

    name: str
    version: str
    alias: str
    reason: str


def register(
    name: str,
    model_uri: str,
    run_id: str,
    *,
    score: float,
    dataset_digest: str,
    tags: Mapping[str, str],
    promotion: Promotion,
) -> RegisteredVersion:
    """Register a logged model as a new version of `name`, as champion or as challenger.

    `score` is the mAP (0 to 1) on the dataset with `dataset_digest`; `tags` (template and the like)
    are added to the version's own. A version becomes champion if it is the first, or if comparing
    it with the champion gives what its rule asks for; never if it finds nothing, which is a score
    of 0.0000 or none at all (NaN). A run has one version: registering it again, for what may have
    been interrupted, takes that one. Raises UsageError for a name that MLflow does not take,
    NotFoundError where the model does not exist, and UnreachableError.
    """
    _check_name(name)
    create_missing_stores()
    all_tags = {
        **tags,
        SCORE: repr(float(score)),
        DIGEST: dataset_digest,
        EID: run_id,
        PROMOTE_IF: promotion.rule,
    }

    with translate_mlflow_errors(f"{model_uri} is not there, so it cannot be registered"):
        if has_model(name):
            record_foreign_move(name)
        version = retry_on_conflict(lambda: _find_or_create(name, model_uri, run_id, all_tags))
        _delete_duplicates(name, run_id)

        state = _compare_and_settle(name, version, promotion)
        standing = state.standing
        reason = state.versions[version].tags.get(REASON)
        if reason is None:
            decision = standing.decisions[version]
            reason = decision.reason
            set_decision(name, version, decision.is_champion)
            set_reason(name, version, reason)
        _correct_later_reasons(name, version, state)

    # A champion that was overtaken meanwhile is still registered as champion.
    was_champion = version == standing.champion or version in standing.earlier
    return RegisteredVersion(name, str(version), CHAMPION if was_champion else CHALLENGER, reason)


def has_version(name: str, run_id: str) -> bool:
    """Return whether a run has a version of `name`. Raises UnreachableError."""
    with translate_mlflow_errors(f"the versions of {name} cannot be listed"):
        return has_model(name) and bool(_find_versions_of_run(name, run_id))


def promote(name: str, version: str) -> RegisteredVersion:
    """Make a version champion by hand, whatever its score.

    Raises NotFoundError for an unknown name or version, and UnreachableError.
    """
    _check_name(name)
    create_missing_stores()
    with translate_mlflow_errors(f"{name} has no version {version}: see the model registry"):
        number = int(MlflowClient().get_model_version(name, version).version)
        record_foreign_move(name)
        champion = _settle_aliases(name).standing.champion
        if champion == number:
            return RegisteredVersion(name, str(number), CHAMPION, "it is the champion already")

        reason = PROMOTED
        if champion is not None:
            reason += f", in place of version {champion}"
        _move_champion(name, MoveKind.PROMOTE, number, reason)
    return RegisteredVersion(name, str(number), CHAMPION, reason)


def rollback(name: str) -> RegisteredVersion:
    """Make the champion before the present one champion again; the next call goes back further.

    Raises NotFoundError for an unknown name, UsageError where there is no champion before, and
    UnreachableError.
    """
    _check_name(name)
    create_missing_stores()
    with translate_mlflow_errors(f"{name} is not in the model registry"):
        record_foreign_move(name)
        standing = _settle_aliases(name).standing
        if not standing.earlier:
            raise UsageError(
                f"{name} has no earlier champion to go back to: "
                f"detreg promote {name} VERSION names one"
            )

        number = standing.earlier[-1]
        reason = ROLLED_BACK
        if standing.champion is not None:
            reason += f" from version {standing.champion}"
        _move_champion(name, MoveKind.ROLLBACK, number, reason)
    return RegisteredVersion(name, str(number), CHAMPION, reason)


def _check_name(name: str) -> None:
    problem = find_name_problem(name)
    if problem is not None:
        raise UsageError(problem)


def _find_or_create(name: str, model_uri: str, run_id: str, tags: Mapping[str, str]) -> int:
    """Return the first version of the run, which is created where there is none."""
    if not (has_model(name) and _find_versions_of_run(name, run_id)):
        create_version(name, model_uri, tags)
    return _find_versions_of_run(name, run_id)[0]


def _find_versions_of_run(name: str, run_id: str) -> list[int]:
    versions = list_versions(name)
    return [number for number in sorted(versions) if versions[number].tags.get(EID) == run_id]


def _delete_duplicates(name: str, run_id: str) -> None:
    """Delete all but the first version of a run.

    MLflow sends a request again whose answer was lost, and creates a second version. Two processes
    that publish the same run do too. compute_standing ignores such a version, so that nothing
    depends on when it is deleted. One that somebody has given an alias is kept.
    """
    duplicates = _find_versions_of_run(name, run_id)[1:]
    if not duplicates:
        return

    versions_with_alias = read_state(name).aliases.values()
    for number in duplicates:
        if number not in versions_with_alias:
            delete_version(name, number)


def _compare_and_settle(name: str, version: int, promotion: Promotion) -> RegistryState:
    """Write the evidence of a version, set the aliases, and return what was seen at last.

    There is no return before a look at which no evidence was missing: another version may have
    become champion while this one was compared.
    """
    while True:
        state = read_state(name)
        champions = find_champions_to_compare(state.candidates, state.moves, version)
        if not champions:
            state = _settle_aliases(name)
            champions = find_champions_to_compare(state.candidates, state.moves, version)
        if not champions:
            return state

        by_version = {candidate.version: candidate for candidate in state.candidates}
        for champion in sorted(champions):
            if _is_abandoned(state, champion):
                _close_abandoned(name, state, champion)
                continue
            evidence = promotion.measure(by_version[champion])
            write_evidence(name, version, champion, evidence)


def _is_abandoned(state: RegistryState, version: int) -> bool:
    """Whether a version waits for evidence that nobody will write any more."""
    decision = state.standing.decisions.get(version)
    is_waiting = decision is not None and decision.is_waiting
    return is_waiting and not is_being_registered(state.versions[version])


def _close_abandoned(name: str, state: RegistryState, version: int) -> None:
    """Write that a version whose process is gone was not compared, so that nobody waits for it."""
    for champion in find_champions_to_compare(state.candidates, state.moves, version):
        write_evidence(name, version, champion, Evidence(problem=ABANDONED))


def _correct_later_reasons(name: str, version: int, state: RegistryState) -> None:
    """Correct the reasons of later versions that were done before this one was compared."""
    for later, decision in state.standing.decisions.items():
        reason = state.versions[later].tags.get(REASON)
        is_by_hand = reason is None or reason.startswith(HAND_REASONS)
        if later <= version or is_by_hand or reason == decision.reason or decision.is_waiting:
            continue
        set_decision(name, later, decision.is_champion)
        set_reason(name, later, decision.reason)


def _settle_aliases(name: str) -> RegistryState:
    """Set the aliases to what follows from versions and moves, and return what was seen at last.

    There is no return before a look at which nothing was left to set: a process that was registered
    meanwhile may have set an alias before this one did.
    """
    while True:
        state = read_state(name)
        champion, challenger = state.standing.champion, state.standing.challenger
        is_settled = True

        # An alias that nothing explains is left alone: it may serve somebody.
        if champion is not None and state.aliases.get(CHAMPION) != champion:
            set_alias(name, CHAMPION, champion)
            is_settled = False

        if challenger is None and CHALLENGER in state.aliases:
            delete_alias(name, CHALLENGER)
            is_settled = False
        elif challenger is not None and state.aliases.get(CHALLENGER) != challenger:
            set_alias(name, CHALLENGER, challenger)
            is_settled = False

        if is_settled:
            return state


def _move_champion(name: str, kind: MoveKind, version: int, reason: str) -> None:
    """Record a move by hand, set the aliases, and give the version the reason."""
    state = read_state(name)
    move = plan_move(state, kind, version)
    write_move(name, move)

    # A version that was registered between the look and the write comes before the move too.
    state = read_state(name)
    while state.newest > move.after:
        move = replace(move, after=state.newest)
        write_move(name, move)
        state = read_state(name)

    _settle_aliases(name)
    set_reason(name, version, reason)
    write_move(name, replace(move, is_settled=True))
