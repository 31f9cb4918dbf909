"""In bf16 backbone, neck and dense head train in bf16, and everything else in float32."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcv.cnn.bricks import Swish
from mmengine.optim import build_optim_wrapper
from test_train_loop import FullGpu, Trained, freeze_statistics, prepare, train
from torch import Tensor, nn
from torch.nn import functional

from detreg.data.dataset import Dataset, load_dataset
from detreg.training.divided_step import compute_gradients
from detreg.training.network import build_network
from detreg.training.precision import TrainingForward, use_precision
from detreg.training.trial_steps import draw_batch

KINDS = ("yolox", "ssd", "faster_rcnn")
"""A template for each kind of head."""


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return load_dataset(str(tiny))


@pytest.fixture(scope="module")
def networks(dataset: Dataset) -> dict[str, Any]:
    """Return a small network of each kind, in training mode; tests work on copies."""
    built: dict[str, Any] = {}
    for name in KINDS:
        torch.manual_seed(0)
        built[name] = build_network(prepare(name, dataset).config.model, None).train()
    return built


def draw(network: Any) -> Mapping[str, Any]:
    """Return two images of 64 px and their boxes, as the network takes them."""
    batch: Mapping[str, Any] = network.data_preprocessor(draw_batch(2, 64, 64), True)
    return batch


def run_step(network: Any) -> dict[str, Tensor]:
    """Compute a step's gradients; return its losses."""
    torch.manual_seed(0)
    wrapper = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
    optimizer = build_optim_wrapper(network, wrapper)
    return compute_gradients(network, optimizer, draw(network))


def list_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in list_tensors(part)]


def watch(module: nn.Module) -> list[torch.dtype]:
    """Return a list that gets the types of what a module puts out."""
    types: list[torch.dtype] = []
    module.register_forward_hook(
        lambda module, inputs, outputs: types.extend(  # noqa: ARG005
            tensor.dtype for tensor in list_tensors(outputs)
        )
    )
    return types


@pytest.mark.parametrize("name", KINDS)
def test_only_the_dense_layers_compute_in_bf16(name: str, networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks[name])
    use_precision(network, "bf16")
    is_two_stage = name == "faster_rcnn"
    features = watch(network.backbone)
    of_neck = watch(network.neck)
    of_head = watch(network.rpn_head if is_two_stage else network.bbox_head)
    second_stage = watch(network.roi_head.bbox_head) if is_two_stage else [torch.float32]

    losses = run_step(network)
    assert set(features) == {torch.bfloat16}
    # The second stage reads what the neck puts out.
    assert set(of_neck) == {torch.float32 if is_two_stage else torch.bfloat16}
    assert set(of_head) == {torch.float32}
    assert set(second_stage) == {torch.float32}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    for parameter in network.parameters():
        assert parameter.dtype is torch.float32
        assert parameter.grad is None or parameter.grad.dtype is torch.float32


@pytest.mark.parametrize("name", KINDS)
def test_features_in_bf16_differ_by_rounding(name: str, networks: dict[str, Any]) -> None:
    """Losses may differ more: rounding decides between boxes that are equally good.

    So may features that batch norms blow up, as random weights tell images of 64 px hardly apart.
    """
    features = {}
    for precision in ("fp32", "bf16"):
        network = copy.deepcopy(networks[name])
        use_precision(network, precision)
        freeze_statistics(network)
        with torch.no_grad():
            levels = network.extract_feat(draw(network)["inputs"])
        features[precision] = torch.cat([level.float().flatten() for level in levels])

    difference = (features["bf16"] - features["fp32"]).norm() / features["fp32"].norm()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scoring_stays_as_it_is(precision: str, networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks["yolox"]).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        expected = list_tensors(network(images))
        use_precision(network, precision)
        actual = list_tensors(network(images))
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def test_swish_is_one_operation_in_training_alone(networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks["yolox"])
    use_precision(network, "fp32")
    swish = next(module for module in network.modules() if isinstance(module, Swish))
    values = torch.linspace(-8, 8, 1001)
    twofold = values * torch.sigmoid(values)
    assert torch.equal(swish(values), functional.silu(values))
    torch.testing.assert_close(swish(values), twofold)
    assert torch.equal(swish.eval()(values), twofold)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_onednn_computes_all_convolutions_in_training(networks: dict[str, Any]) -> None:
    def run(network: Any) -> tuple[int, Tensor, Tensor]:
        """Return the convolutions that MKL computes, the loss and all gradients of a step."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            losses = run_step(network)
        by_mkl = sum("slow_conv2d" in event.name for event in profile.events())
        gradients = [parameter.grad.flatten() for parameter in network.parameters()]
        return by_mkl, losses["loss"], torch.cat(gradients)

    plain = copy.deepcopy(networks["yolox"])
    expected_by_mkl, expected_loss, expected_gradients = run(plain)
    network = copy.deepcopy(networks["yolox"])
    use_precision(network, "fp32")
    by_mkl, loss, gradients = run(network)

    assert by_mkl == 0 < expected_by_mkl
    torch.testing.assert_close(loss, expected_loss)
    difference = (gradients - expected_gradients).norm() / expected_gradients.norm()
    assert difference < 1e-3


def test_a_copy_runs_its_own_layers(networks: dict[str, Any]) -> None:
    """EMAHook copies the network."""
    network = copy.deepcopy(networks["yolox"])
    use_precision(network, "bf16")
    average = copy.deepcopy(network)
    assert average.backbone.forward.module is average.backbone

    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert all(tensor.isfinite().all() for tensor in average.extract_feat(images))


def test_a_precision_replaces_the_one_before(networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks["yolox"])
    use_precision(network, "fp32")
    expected = run_step(network)
    use_precision(network, "bf16")
    use_precision(network, "fp32")
    network.load_state_dict(networks["yolox"].state_dict())
    assert torch.equal(run_step(network)["loss"], expected["loss"])

    # One for each layer, and none for the depthwise convolutions any more.
    layers = [network.backbone, network.neck, network.bbox_head]
    replaced = [
        module
        for module in network.modules()
        if isinstance(module.__dict__.get("forward"), TrainingForward)
    ]
    assert {id(module) for module in replaced} == {id(layer) for layer in layers}


def test_a_state_that_is_saved_has_the_usual_memory_format(networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks["yolox"])
    use_precision(network, "bf16")
    run_step(network)
    assert all(value.is_contiguous() for value in network.state_dict().values())


def measure_distance(actual: Trained, expected: Trained) -> float:
    """Return how far two trainings have come apart, as a share of how far they have come."""
    apart, trained = 0.0, 0.0
    for name, value in expected.end.items():
        apart += float((actual.end[name] - value).double().norm()) ** 2
        trained += float((value - expected.start[name]).double().norm()) ** 2
    return (apart / trained) ** 0.5


def test_a_divided_step_trains_in_bf16_what_the_whole_one_does(
    dataset: Dataset, tmp_path: Path
) -> None:
    """SSD's assignment does not look at what is predicted, so that rounding stays rounding."""
    whole = train(prepare("ssd", dataset, precision="bf16"), tmp_path, change=freeze_statistics)
    gpu = FullGpu(capacity=2)
    job = prepare("ssd", dataset, precision="bf16")
    divided = train(job, tmp_path, gpu=gpu, change=freeze_statistics)
    assert gpu.failures == [4]
    assert measure_distance(divided, whole) < 0.05
