"""Threads that need much memory wait for each other."""

import threading

from detreg.data.memory_budget import MemoryBudget

MIB = 1 << 20


def test_what_does_not_fit_waits_until_there_is_room() -> None:
    budget = MemoryBudget(10 * MIB)
    order: list[str] = []
    is_waiting = threading.Event()

    def work() -> None:
        is_waiting.set()
        with budget.reserve(6 * MIB):
            order.append("second")

    thread = threading.Thread(target=work)
    with budget.reserve(6 * MIB):
        thread.start()
        assert is_waiting.wait(120)
        # Little is always there, and so is what fits.
        with budget.reserve(1 * MIB), budget.reserve(4 * MIB):
            order.append("first")
    thread.join(120)
    assert order == ["first", "second"]


def test_what_is_larger_than_all_takes_all() -> None:
    budget = MemoryBudget(10 * MIB)
    with budget.reserve(100 * MIB):
        pass
    with budget.reserve(10 * MIB):
        pass
