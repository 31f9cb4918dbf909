"""A batch norm over two real processes equals one over the whole batch."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from conftest import free_port
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from detreg.training.batch_norms import freeze_statistics
from detreg.training.sync_batchnorm import synchronize_batch_norms

SHARES = (slice(0, 3), slice(3, 5))
"""The images of each process."""


class PassResult(NamedTuple):
    """The output of a network, and the gradient of its input."""

    output: Tensor
    gradient: Tensor


def make_network() -> nn.Module:
    """Make a network with two batch norms, one of them timm's.

    In double precision, where what differs is not rounding.
    """
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(4), BatchNormAct2d(4)
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    plain, with_activation = norms
    first, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
    return nn.Sequential(first, plain, nn.Sequential(with_activation), last).double()


def make_images() -> Tensor:
    """Make five images whose mean is far from zero."""
    generator = torch.Generator().manual_seed(1)
    return 1000 + torch.randn(5, 3, 6, 7, dtype=torch.double, generator=generator)


def run_step(network: nn.Module, images: Tensor) -> PassResult:
    """Run forward and backward, from a sum that weighs every output differently."""
    images = images.clone().requires_grad_()
    output = network(images)
    (output**3).sum().backward()
    assert images.grad is not None
    return PassResult(output.detach(), images.grad)


def make_bf16_images() -> Tensor:
    """Make five images as bf16 layers put them out."""
    return (make_images() - 1000).bfloat16()


def run_process(rank: int, port: int, folder: Path) -> None:
    """Run two steps on this process's images, and write everything that comes of them."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    images = make_images()
    network = synchronize_batch_norms(make_network())
    run_step(network, images[SHARES[rank]])
    second = run_step(network, images[SHARES[rank]])

    with torch.no_grad():
        evaluated = network.eval()(images)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    results = {
        "output": second.output,
        "gradient": second.gradient,
        "parameter_gradients": {name: value.grad for name, value in network.named_parameters()},
        "state": state,
        "evaluated": evaluated,
    }

    norm = synchronize_batch_norms(nn.Sequential(nn.BatchNorm2d(3)))
    results["in_bf16"] = tuple(run_step(norm, make_bf16_images()[SHARES[rank]]))
    results["state_in_bf16"] = norm.state_dict()
    torch.save(results, folder / f"{rank}.pt")

    freeze_statistics(network.train())
    run_step(network, images[SHARES[rank]])
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_synced_batch_norm_equals_that_of_the_whole_batch(tmp_path: Path) -> None:
    spawn(run_process, (free_port(), tmp_path), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    network = make_network()
    run_step(network, make_images())
    whole = run_step(network, make_images())
    outputs = torch.cat([part["output"] for part in parts])
    gradients = torch.cat([part["gradient"] for part in parts])
    torch.testing.assert_close(outputs, whole.output, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients, whole.gradient, rtol=1e-9, atol=1e-9)

    for name, parameter in network.named_parameters():
        total = sum(part["parameter_gradients"][name] for part in parts)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-9, atol=1e-9)

    for part in parts:
        assert part["state"].keys() == network.state_dict().keys()
        state = dict(network.state_dict())
        torch.testing.assert_close(part["state"], state, rtol=1e-12, atol=1e-12)

    norm = nn.Sequential(nn.BatchNorm2d(3))
    whole_in_bf16 = run_step(norm, make_bf16_images())
    parts_in_bf16 = zip(*(part["in_bf16"] for part in parts), strict=True)
    for expected, tensors in zip(whole_in_bf16, parts_in_bf16, strict=True):
        torch.testing.assert_close(torch.cat(tensors), expected, rtol=0.02, atol=0.02)
    # The statistics do not suffer from it.
    torch.testing.assert_close(parts[0]["state_in_bf16"], dict(norm.state_dict()))

    evaluated = network.eval()(make_images())
    torch.testing.assert_close(parts[0]["evaluated"], evaluated, rtol=1e-9, atol=1e-9)
