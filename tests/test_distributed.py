"""Training by torchrun equals training in one process; and its batch-norm by itself. Two real processes each time."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import torch.distributed as dist
from conftest import TINY, free_port, run_under_torchrun
from mlflow import MlflowClient
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

import detreg
from detreg.tracking import runs
from detreg.training.batch_norms import freeze_statistics
from detreg.training.checkpoints import load_checkpoint
from detreg.training.sync_batchnorm import synchronize_batch_norms


def curve(eid: str, metric: str) -> list[float]:
    return [entry.value for entry in MlflowClient().get_metric_history(eid, metric)]


def weights(eid: str, folder: Path) -> dict[str, torch.Tensor]:
    """Those under training at the end, not their average."""
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    training = load_checkpoint(runs.download_artifact(eid, stored.last, folder / eid)).training
    assert training
    return dict(training["state_dict"])


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    store: str, tiny: Path, dense_checkpoint: Path, tmp_path: Path
) -> None:
    # At usual rates a difference of a ten-millionth grows a hundredfold with each step.
    values: dict[str, Any] = {
        "load_from": dense_checkpoint,
        "per_item_lrate": 1e-6,
        "frozen_stages": 2,
        "num_workers": 1,
    }
    alone = detreg.train(
        "yolox", data=str(tiny), **TINY | values | {"load_from": str(values["load_from"])}
    )
    process = run_under_torchrun(store, tiny, **values)
    told, errors = process.communicate()
    assert process.returncode == 0, errors
    together = json.loads(told.splitlines()[-1])
    assert len(mlflow.search_runs(output_format="list")) == 2
    assert (
        runs.get_run(together["run_id"]).info.status == "FINISHED"
        and together["model_version"] == "2"
    )
    for line in (
        "Dataset tiny",
        "Starts from the weights of",
        "MLflow run (eid)",
        "epoch 1/2",
        "Parity:",
        "registered yolox version 2",
    ):
        assert (told + errors).count(line) == 1
    for metric, tolerance in (
        ("train/loss", 1e-5),
        ("train/loss_bbox", 1e-5),
        ("val/mAP_50", 1e-4),
        ("mAP_50", 1e-4),
    ):
        assert curve(together["run_id"], metric) == pytest.approx(
            curve(alone["run_id"], metric), rel=tolerance, abs=1e-6
        ), metric
    start = load_checkpoint(values["load_from"]).state_dict
    one, two = (weights(result["run_id"], tmp_path) for result in (alone, together))
    assert one.keys() == two.keys() == start.keys()
    for name, value in one.items():
        moved = (value - start[name]).float().norm()
        if name.startswith(("backbone.stem.", "backbone.stage1.", "backbone.stage2.")):
            assert moved == 0 and torch.equal(two[name], value)
        else:
            assert (
                two[name] - value
            ).float().norm() <= 0.01 * moved + 1e-6 * value.float().norm(), name


@pytest.mark.slow
def test_processes_stop_together_after_uneven_epochs(
    store: str, tiny: Path, dense_checkpoint: Path
) -> None:
    """21 images in steps of 4: the last step has one, and each process needs one. A rate of 0 gives every epoch the same mAP."""
    values = {"per_item_lrate": 0.0, "min_samples_per_epoch": 21, "num_epochs": 9, "patience": 1}
    process = run_under_torchrun(store, tiny, **values, load_from=dense_checkpoint)
    told, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(curve(json.loads(told.splitlines()[-1])["run_id"], "val/mAP")) == 2
    longer = run_under_torchrun(
        store, tiny, **values, continue_from_eid=json.loads(told.splitlines()[-1])["run_id"]
    )
    told, errors = longer.communicate()
    assert longer.returncode == 0 and "after epoch 2 of 9" in told, errors
    steps = MlflowClient().get_metric_history(
        json.loads(told.splitlines()[-1])["run_id"], "val/mAP"
    )
    assert [entry.step for entry in steps] == [3]


def norms() -> nn.Module:
    """Two batch-norms, one of which is timm's, in double precision: what differs then is not rounding."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(BatchNormAct2d(4)), nn.Conv2d(4, 2, 1)
    ).double()
    for norm in (network[1], network[2][0]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return network


def passed(network: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradient of the pixels, of a sum that weighs everything differently."""
    pixels = pixels.clone().requires_grad_()
    output = network(pixels)
    (output**3).sum().backward()
    assert pixels.grad is not None
    return [output.detach(), pixels.grad]


def pixels() -> torch.Tensor:
    """Five pictures whose mean is far from zero."""
    return 1000 + torch.randn(
        5, 3, 6, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1)
    )


def one_of_two(rank: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network = synchronize_batch_norms(norms())
    share = slice(0, 3) if rank == 0 else slice(3, 5)
    results = [passed(network, pixels()[share]) for _ in range(2)][-1]
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    with torch.no_grad():
        frozen = network.eval()(pixels())
    state = {name: value.clone() for name, value in network.state_dict().items()}
    torch.save((results, gradients, state, frozen), folder / f"{rank}.pt")
    freeze_statistics(network.train())
    passed(network, pixels()[share])
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_shared_batch_norm_equals_that_of_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    network = norms()
    whole = [passed(network, pixels()) for _ in range(2)][-1]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for index, value in enumerate(whole):
        torch.testing.assert_close(
            torch.cat([results[index] for results, *_ in parts]), value, rtol=1e-9, atol=1e-9
        )
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(
            sum(gradients[name] for _, gradients, *_ in parts), parameter.grad, rtol=1e-9, atol=1e-9
        )
    for _, _, state, _ in parts:
        assert state.keys() == network.state_dict().keys()
        torch.testing.assert_close(state, dict(network.state_dict()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts[0][3], network.eval()(pixels()), rtol=1e-9, atol=1e-9)
