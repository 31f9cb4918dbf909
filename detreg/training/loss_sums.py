"""The sums of an epoch's losses, as checkpoints within the epoch hold them.

With one process they are `loss_sums`. With several, `loss_sums` are the means over the processes,
from which any other number of processes goes on, and `loss_sums_by_rank` those of each process, so
that the same number goes on to the last bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

SUMS = "loss_sums"
SUMS_BY_RANK = "loss_sums_by_rank"

LossSums = Mapping[str, Tensor]
"""Sums by the names of the losses, each a tensor without dimensions."""


def pack_loss_sums(sums_by_rank: Sequence[LossSums]) -> dict[str, Any]:
    """Return what a checkpoint holds under `training`."""
    first = sums_by_rank[0]
    if len(sums_by_rank) == 1:
        return {SUMS: dict(first)}

    means = {
        name: torch.stack([sums[name] for sums in sums_by_rank]).mean(dtype=torch.float64)
        for name in first
    }
    return {
        SUMS: {name: mean.to(first[name].dtype) for name, mean in means.items()},
        SUMS_BY_RANK: [dict(sums) for sums in sums_by_rank],
    }


def find_loss_sums(training: Mapping[str, Any], rank: int, world_size: int) -> LossSums:
    """Return the sums from which the process `rank` goes on."""
    sums_by_rank = training.get(SUMS_BY_RANK, [])
    if world_size > 1 and len(sums_by_rank) == world_size:
        own: LossSums = sums_by_rank[rank]
        return own
    shared: LossSums = training[SUMS]
    return shared


def has_loss_sums(training: Mapping[str, Any]) -> bool:
    """Whether what a file holds under `training` has them, in the form that is written here."""
    shared = training.get(SUMS)
    by_rank = training.get(SUMS_BY_RANK, [])
    if not _are_sums(shared) or not isinstance(by_rank, list):
        return False
    return all(_are_sums(sums) and sums.keys() == shared.keys() for sums in by_rank)


def _are_sums(sums: object) -> TypeGuard[LossSums]:
    if not isinstance(sums, dict) or not sums:
        return False
    return all(isinstance(value, Tensor) and value.dim() == 0 for value in sums.values())
