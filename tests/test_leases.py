"""Which runs are dead, and which only seem so."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from detreg.tracking.journal import Journal
from detreg.tracking.leases import EXPIRY_SECONDS, Lease, describe_death, take_lease
from detreg.tracking.records import End, Metrics

RUN = "0" * 32
NOW = 1_000_000_000.0


@pytest.fixture
def ended_process() -> Lease:
    """Return the lease of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    process.communicate()
    return replace(take_lease(), pid=process.pid, started=started)


def test_a_lease_is_read_as_it_was_written() -> None:
    lease = take_lease()
    assert lease.pid == os.getpid()
    assert Lease.from_tag(lease.to_tag()) == lease


@pytest.mark.parametrize("text", ["", "{}", "[]", "1", "{", '{"host": 1, "pid": "x"}'])
def test_other_texts_are_no_lease(text: str) -> None:
    assert Lease.from_tag(text) is None


def test_on_this_machine_the_process_decides(ended_process: Lease) -> None:
    assert describe_death(RUN, replace(take_lease(), renewed=0.0), NOW) == "", "however old"
    reason = describe_death(RUN, replace(ended_process, renewed=NOW), NOW)
    assert reason.startswith(f"its process {ended_process.pid} on ")
    assert reason.endswith(" is gone")


def test_a_process_id_that_was_given_again_is_another_process() -> None:
    reused = replace(take_lease(), started=take_lease().started - 3600)
    assert describe_death(RUN, reused, NOW).endswith("is gone")


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = replace(
        take_lease(), pid=process.pid, started=psutil.Process(process.pid).create_time()
    )
    assert describe_death(RUN, lease, NOW) == ""
    process.kill()
    # Not waited for yet: its id is still taken.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert describe_death(RUN, lease, NOW).endswith("is gone")
    process.communicate()


def test_on_another_machine_a_day_decides() -> None:
    elsewhere = replace(take_lease(), host="another", renewed=NOW)
    assert describe_death(RUN, elsewhere, NOW + EXPIRY_SECONDS - 1) == ""
    reason = describe_death(RUN, elsewhere, NOW + EXPIRY_SECONDS)
    assert reason.endswith("on another was last heard of 24 hours ago")


def test_a_run_that_waits_for_its_delivery_is_not_dead(
    ended_process: Lease, tmp_path: Path
) -> None:
    lease = replace(ended_process, folder=str(tmp_path))
    (tmp_path / RUN).mkdir()
    journal = Journal(tmp_path / RUN)
    journal.append(Metrics({"loss": 1.0}, 1, 1))
    assert describe_death(RUN, lease, NOW), "it was killed before its end"
    journal.append(End("FINISHED", 1))
    assert describe_death(RUN, lease, NOW) == ""
