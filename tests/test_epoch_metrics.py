"""The metrics of an epoch, and which epoch was the best."""

import pytest

from detreg.training.epoch_metrics import EpochMetrics, TrainingHistory


def test_a_row_of_a_checkpoint_is_read_and_written_unchanged() -> None:
    row = {"epoch": 3.0, "train/loss": 1.5, "train/loss_cls": 0.5, "train/lr": 0.1, "val/mAP": 0.25}
    entry = EpochMetrics.from_row(row)
    assert entry.epoch == 3
    assert entry.train == {"loss": 1.5, "loss_cls": 0.5, "lr": 0.1}
    assert entry.mAP == 0.25
    assert entry.to_row() == row
    assert list(entry.to_row()) == list(row)


def test_an_epoch_without_scores_counts_as_zero() -> None:
    assert EpochMetrics(1).mAP == 0.0


@pytest.mark.parametrize("epoch", [0, -1])
def test_epochs_count_from_1(epoch: int) -> None:
    with pytest.raises(ValueError, match=f"epoch must be 1 or more, got {epoch}"):
        EpochMetrics(epoch)


def test_the_first_of_equal_epochs_is_the_best() -> None:
    history = TrainingHistory()
    assert not history.is_last_best

    is_best = []
    for epoch, mAP in enumerate((0.0, 0.3, 0.3, 0.2, 0.4), start=1):
        history.add(EpochMetrics(epoch, val={"mAP": mAP}))
        is_best.append(history.is_last_best)

    assert is_best == [True, True, False, False, True]
    assert (history.best_epoch, history.best_score) == (5, 0.4)
    assert len(history.entries) == 5


def test_a_training_with_masks_goes_by_their_score() -> None:
    history = TrainingHistory(metric="segm_mAP")
    for epoch, (mAP, segm_mAP) in enumerate(((0.1, 0.3), (0.5, 0.2), (0.4, 0.4)), start=1):
        history.add(EpochMetrics(epoch, val={"mAP": mAP, "segm_mAP": segm_mAP}))
    assert (history.best_epoch, history.best_score, history.last_score) == (3, 0.4, 0.4)
    assert history.entries[0].to_first_charts()["Progress/segm_mAP"] == 0.3
    assert "Progress/segm_mAP" not in EpochMetrics(1, val={"mAP": 0.5}).to_first_charts()
