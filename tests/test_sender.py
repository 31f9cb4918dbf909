"""The thread that delivers a journal: order, tries, patience, renewals."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from detreg.tracking import sender as sender_module
from detreg.tracking.journal import Journal
from detreg.tracking.records import Record, Target
from detreg.tracking.sender import Patience, Sender

PATIENT = Patience(failing=1200, hanging=1200)
UNTIL = 600.0
"""Seconds after which a test gives up; nothing takes that long."""


@dataclass(frozen=True)
class Scripted(Record):
    """A record that arrives after some failures, or when it is let through."""

    name: str
    failures: int = 0
    is_refused: bool = False
    is_held: bool = False

    delivered: ClassVar[list[str]] = []
    tries: ClassVar[dict[str, int]] = {}
    let_through: ClassVar[threading.Event] = threading.Event()

    def _send(self, target: Target) -> None:  # noqa: ARG002
        tries = self.tries.get(self.name, 0)
        self.tries[self.name] = tries + 1
        if self.is_refused:
            raise MlflowException("no such tag", error_code=INVALID_PARAMETER_VALUE)
        if tries < self.failures:
            raise MlflowException("connection refused")
        if self.is_held:
            assert self.let_through.wait(UNTIL)
        self.delivered.append(self.name)


@pytest.fixture(autouse=True)
def fresh_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests have delivered, and try again at once."""
    Scripted.delivered.clear()
    Scripted.tries.clear()
    Scripted.let_through.clear()
    monkeypatch.setattr(sender_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(sender_module, "MAX_PAUSE", 0.001)


@contextmanager
def send(folder: Path, *records: Record, **options: object) -> Iterator[Sender]:
    """Deliver records in the background."""
    journal = Journal(folder)
    for record in records:
        journal.append(record)
    no_client = cast(MlflowClient, None)  # scripted records need none
    target = Target(no_client, "0" * 32, folder)
    sender = Sender(journal, target, **options)  # type: ignore[arg-type]
    sender.start()
    try:
        yield sender
    finally:
        Scripted.let_through.set()
        sender.stop()


def test_records_arrive_in_order_however_often_one_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with send(tmp_path, Scripted("a"), Scripted("b", failures=3), Scripted("c")) as sender:
        assert sender.wait(PATIENT)
        assert not sender.is_failing
    assert Scripted.delivered == ["a", "b", "c"]
    errors = capfd.readouterr().err
    assert errors.count("what the run writes waits for MLflow: connection refused") == 1
    assert errors.count("MLflow answers again") == 1


def test_a_refused_record_keeps_back_no_other(tmp_path: Path) -> None:
    with send(tmp_path, Scripted("a", is_refused=True), Scripted("b")) as sender:
        assert sender.wait(PATIENT)
        assert sender.refusal.endswith("no such tag")
    assert Scripted.delivered == ["b"]
    assert Scripted.tries["a"] == 1


def test_a_record_that_is_written_later_wakes_the_thread(tmp_path: Path) -> None:
    with send(tmp_path) as sender:
        sender.journal.append(Scripted("late"))
        sender.wake()
        assert sender.wait(PATIENT)
    assert Scripted.delivered == ["late"]


def test_a_failing_server_is_given_up_before_one_that_hangs(tmp_path: Path) -> None:
    clock = itertools.count(step=100)
    patience = Patience(failing=100, hanging=1000)

    failing = Scripted("failing", failures=1_000_000)
    (tmp_path / "failing").mkdir()
    with send(tmp_path / "failing", failing, clock=lambda: float(next(clock))) as sender:
        began_at = next(clock)
        assert not sender.wait(patience)
        assert next(clock) - began_at >= 100

    Scripted.let_through.clear()
    hanging = Scripted("hanging", is_held=True)
    (tmp_path / "hanging").mkdir()
    with send(tmp_path / "hanging", hanging, clock=lambda: float(next(clock))) as sender:
        began_at = next(clock)
        assert not sender.wait(patience)
        assert next(clock) - began_at >= 1000


def test_what_arrives_after_the_end_is_left_to_the_next_delivery(tmp_path: Path) -> None:
    with send(tmp_path, Scripted("held", is_held=True)) as sender:
        assert not sender.wait(Patience(0, 0))
        sender.stop()
        Scripted.let_through.set()
        sender._thread.join(UNTIL)
    assert Journal(tmp_path).pending == 1


def test_a_lease_is_renewed_again_and_again_also_after_a_failure(tmp_path: Path) -> None:
    renewals: list[int] = []
    enough = threading.Event()

    def renew() -> None:
        renewals.append(1)
        if len(renewals) == 3:
            enough.set()
        raise MlflowException("connection refused")

    with send(tmp_path, renew=renew, renewal_interval=0.001):
        assert enough.wait(UNTIL)
