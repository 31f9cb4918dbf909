"""The hook that leaves out the mixing of images in the last epochs."""

from types import SimpleNamespace
from typing import Any

from detreg.training.plain_epochs import PlainEpochsHook


def make_runner(epoch: int) -> Any:
    """Return as much of MMEngine's runner as the hook looks at."""
    sampler = SimpleNamespace(skip="unset")
    head = SimpleNamespace(use_l1=None)
    return SimpleNamespace(
        epoch=epoch,
        max_epochs=10,
        train_dataloader=SimpleNamespace(sampler=sampler),
        model=SimpleNamespace(bbox_head=head),
    )


def test_plain_epochs_switch_both_ways() -> None:
    hook = PlainEpochsHook(epochs=3, skip=["FastMosaic", "FastMixUp"])

    switches = []
    for epoch in (0, 6, 7, 9, 2):
        runner = make_runner(epoch)
        hook.before_train_epoch(runner)
        skipped = runner.train_dataloader.sampler.skip
        switches.append((skipped, runner.model.bbox_head.use_l1))

    mixed, plain = ((), False), (("FastMosaic", "FastMixUp"), True)
    assert switches == [mixed, mixed, plain, plain, mixed]


def test_zero_plain_epochs_switch_nothing() -> None:
    runner = make_runner(9)
    PlainEpochsHook(epochs=0, skip=["FastMosaic"]).before_train_epoch(runner)
    assert runner.train_dataloader.sampler.skip == ()
    assert runner.model.bbox_head.use_l1 is False
