"""Batch-norms of networks that detreg trains: single values, and statistics that stay."""

import pytest
import torch
from torch import Tensor, nn

from detreg.training.batch_norms import freeze_statistics, normalize_single_values

SINGLE_VALUE = torch.ones(1, 3, 1, 1)


def get_running_mean(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_mean is not None
    return norm.running_mean


def test_a_single_value_is_normalized_by_the_running_statistics() -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(SINGLE_VALUE)

    normalize_single_values(norm)
    running_mean = get_running_mean(norm).fill_(0.5)
    before = running_mean.clone()
    expected = torch.full((1, 3, 1, 1), 0.5)
    torch.testing.assert_close(norm(SINGLE_VALUE), expected, rtol=1e-4, atol=0)
    assert norm.training
    assert torch.equal(running_mean, before)


def test_several_values_are_normalized_by_their_own_statistics() -> None:
    norm = nn.BatchNorm2d(3)
    normalize_single_values(norm)
    norm(SINGLE_VALUE)

    before = get_running_mean(norm).clone()
    output = norm(torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    torch.testing.assert_close(output.mean(), torch.tensor(0.0))
    assert not torch.equal(get_running_mean(norm), before)


def test_a_single_value_in_evaluation_leaves_the_mode_alone() -> None:
    norm = nn.BatchNorm2d(3)
    normalize_single_values(norm)
    norm.eval()
    assert not norm(SINGLE_VALUE).isnan().any()
    assert not norm.training


def test_frozen_statistics_stay_in_training() -> None:
    norm = nn.BatchNorm2d(3)
    freeze_statistics(norm)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.rand(4, 3, 2, 2))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name
