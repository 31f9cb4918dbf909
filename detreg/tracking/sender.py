"""A thread that delivers a journal to MLflow, so that training never waits for a server.

Records go in the order in which they were written. One that does not arrive is tried again until it
does, with growing pauses. One that MLflow refuses for good, such as any record of a run that was
deleted, is put aside, so that it does not keep back the others.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from detreg.errors import UndeliveredError, summarize_error
from detreg.mlflow_errors import is_refusal
from detreg.tracking.journal import Journal
from detreg.tracking.records import Artifact, Record, Target

FIRST_PAUSE = 1.0
MAX_PAUSE = 30.0
"""Seconds between two tries to deliver a record: at first, and at most."""


@dataclass(frozen=True)
class Patience:
    """How long the end of a run waits for its delivery, in seconds.

    failing: since the last record that arrived, where one has failed after it.
    hanging: since the last record that arrived, where none has failed.
    """

    failing: float = 60.0
    hanging: float = 300.0


PATIENCE = Patience()


class Sender:
    """Delivers a run's journal to `target` in a thread of its own.

    `renew` is called when there is nothing to deliver, every `renewal_interval` seconds.
    """

    def __init__(
        self,
        journal: Journal,
        target: Target,
        renew: Callable[[], object] | None = None,
        renewal_interval: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal
        self.target = target
        self.refusal = ""
        """Why MLflow has refused the last record that it refused, or empty."""
        self.upload_seconds = 0.0
        """How long the delivery of the last file took."""

        self._renew = renew
        self._renewal_interval = renewal_interval
        self._clock = clock
        self._changed = threading.Condition()
        self._is_stopped = False
        self._pause = 0.0
        self._progress_at = clock()
        self._renewed_at = clock()
        self._thread = threading.Thread(target=self._run, daemon=True, name="detreg-sender")

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Deliver what was appended to the journal."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, patience: Patience) -> bool:
        """Wait until everything is delivered; return whether it is.

        What MLflow refuses counts as delivered; see `refusal`.
        """
        with self._changed:
            # The time before this call is that of the training, which did not wait.
            self._progress_at = self._clock()
            self._pause = min(self._pause, FIRST_PAUSE)
            self._changed.notify_all()
            while self.journal.pending and not self._should_give_up(patience):
                self._changed.wait(0.1)
        return not self.journal.pending

    def stop(self) -> None:
        """Let the thread end. What it is sending may still arrive: it is not waited for."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    @property
    def is_failing(self) -> bool:
        """Whether the last try to deliver has failed."""
        return self._pause > 0

    def _should_give_up(self, patience: Patience) -> bool:
        if not self._thread.is_alive():
            return True
        limit = patience.failing if self.is_failing else patience.hanging
        return self._clock() - self._progress_at >= limit

    def _run(self) -> None:
        while self._wait_for_work():
            if self.journal.peek() is None:
                self._renew_quietly()
            else:
                self._deliver_next()

    def _wait_for_work(self) -> bool:
        """Wait for a record to deliver, or for a renewal; return False where the sender stops."""
        with self._changed:
            if self._pause:
                self._changed.wait(self._pause)
            while not self._is_stopped:
                until_renewal = self._renewed_at + self._renewal_interval - self._clock()
                if self.journal.pending or (self._renew and until_renewal <= 0):
                    return True
                self._changed.wait(until_renewal if self._renew else None)
        return False

    def _deliver_next(self) -> None:
        record = self.journal.peek()
        if record is None:
            return
        started_at = self._clock()
        refusal: Exception | None = None
        try:
            record.deliver(self.target)
        except Exception as error:
            if not is_refusal(error):
                self._note_failure(error)
                return
            refusal = error

        if self._is_stopped:
            # The folder may belong to another process by now, which delivers the record again.
            return
        # Before it is counted: whoever sees no file waiting knows how long the last one took.
        if isinstance(record, Artifact):
            self.upload_seconds = self._clock() - started_at
        if refusal is None:
            self.journal.count_delivered(record)
        else:
            self._put_aside(record, refusal)
        self._note_progress()

    def _put_aside(self, record: Record, refusal: Exception) -> None:
        self.refusal = summarize_error(refusal)
        message = f"MLflow refuses what run {self.target.run_id} writes: {self.refusal}"
        print(message, file=sys.stderr, flush=True)
        self.journal.put_aside(record)

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            # A registration waits for `detreg sync`, which the end of the run says.
            if not self._pause and not isinstance(error, UndeliveredError):
                message = f"what the run writes waits for MLflow: {summarize_error(error)}"
                print(message, file=sys.stderr, flush=True)
            self._pause = min(2 * self._pause or FIRST_PAUSE, MAX_PAUSE)
            self._changed.notify_all()

    def _note_progress(self) -> None:
        with self._changed:
            if self._pause:
                print("MLflow answers again", file=sys.stderr, flush=True)
            self._pause = 0.0
            self._progress_at = self._clock()
            self._changed.notify_all()

    def _renew_quietly(self) -> None:
        """Renew; where that fails, the next renewal is the next try."""
        self._renewed_at = self._clock()
        try:
            if self._renew:
                self._renew()
        except Exception as error:
            print(f"the lease waits for MLflow: {summarize_error(error)}", file=sys.stderr)
