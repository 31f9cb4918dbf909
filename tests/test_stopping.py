"""Processes that train together stop for a signal of any of them, and keep each one's losses."""

import signal
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from detreg.signals import STOP_SIGNALS, SignalExit, Stopped, defer_signals
from detreg.training.distributed import SharedSignals
from detreg.training.loss_sums import find_loss_sums, has_loss_sums, pack_loss_sums


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_signal_of_another_process_stops_this_one(
    monkeypatch: pytest.MonkeyPatch, handler: signal.Handlers
) -> None:
    """Also one that this process ignores, as those beside the first one ignore SIGHUP."""
    signal.signal(signal.SIGHUP, handler)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    numbers = iter([0, signal.SIGHUP])

    def reduce_with_another(own: Tensor, op: object, group: object) -> None:
        assert (own.item(), op, group) == (0, dist.ReduceOp.MAX, None)
        own.fill_(next(numbers))

    monkeypatch.setattr(dist, "all_reduce", reduce_with_another)
    with pytest.raises(SignalExit) as raised, defer_signals() as own:
        signals = SharedSignals(own)
        assert not signals.check()
        assert signals.check()
        raise Stopped
    assert raised.value.number == signal.SIGHUP


def test_a_process_alone_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with defer_signals() as own:
        signals = SharedSignals(own)
        assert not signals.check()
        signals.wait_for_all()


def make_sums(loss: float, box: float) -> dict[str, Tensor]:
    return {"loss": torch.tensor(loss), "loss_bbox": torch.tensor(box)}


def test_each_process_goes_on_from_its_own_sums() -> None:
    training = pack_loss_sums([make_sums(1.0, 0.5), make_sums(4.0, 0.25)])
    assert has_loss_sums(training)
    assert find_loss_sums(training, 0, 2) == make_sums(1.0, 0.5)
    assert find_loss_sums(training, 1, 2) == make_sums(4.0, 0.25)


@pytest.mark.parametrize("world_size", [1, 3])
def test_another_number_of_processes_goes_on_from_the_means(world_size: int) -> None:
    training = pack_loss_sums([make_sums(1.0, 0.5), make_sums(4.0, 0.25)])
    found = find_loss_sums(training, world_size - 1, world_size)
    assert found == make_sums(2.5, 0.375)
    assert found["loss"].dtype == torch.float32


def test_several_processes_go_on_from_the_sums_of_one() -> None:
    training = pack_loss_sums([make_sums(1.0, 0.5)])
    assert training.keys() == {"loss_sums"}
    assert find_loss_sums(training, 1, 2) == make_sums(1.0, 0.5)


@pytest.mark.parametrize(
    "by_rank",
    [5, {"loss": 1}, [5], [{}], [{"loss": 1.0}], [make_sums(1.0, 0.5), {"loss": torch.ones(2)}]],
)
def test_sums_of_another_form_are_not_used(by_rank: object) -> None:
    assert not has_loss_sums({"loss_sums": make_sums(1.0, 0.5), "loss_sums_by_rank": by_rank})
