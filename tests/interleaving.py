"""Carries out an action on a registry with other actions between its requests."""

import itertools
from collections.abc import Callable, Mapping
from typing import Protocol

Action = Callable[[], object]


class Requests(Protocol):
    """What calls `before_request` with the name of each request before it is carried out."""

    before_request: Callable[[str], None]


class Killed(BaseException):
    """The process ends here."""


def kill() -> None:
    raise Killed


def ignore(_: str) -> None:
    pass


def list_requests(requests: Requests, action: Action) -> list[str]:
    """Carry out an action, and return the names of its requests."""
    names: list[str] = []
    requests.before_request = names.append
    action()
    requests.before_request = ignore
    return names


def act_with_interruptions(
    requests: Requests, action: Action, interruptions: Mapping[int, Action]
) -> None:
    """Carry out an action, and before its request of each number another one."""
    number = itertools.count()
    is_interrupted = False

    def interrupt(_: str) -> None:
        nonlocal is_interrupted
        if is_interrupted:
            return
        interruption = interruptions.get(next(number))
        if interruption is not None:
            is_interrupted = True
            interruption()
            is_interrupted = False

    requests.before_request = interrupt
    try:
        action()
    except Killed:
        pass
    finally:
        requests.before_request = ignore
