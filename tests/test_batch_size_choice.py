"""batch_size=auto: the most images that fit into the GPU's memory, here into a stand-in of it."""

from typing import Any

import pytest
import torch
from conftest import SMALL

from detreg import torchrun
from detreg.errors import MemoryExhaustedError
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import batch_size_choice
from detreg.training.batch_size_choice import choose_batch_size, measure_step, run_step
from detreg.training.trial_steps import draw_batch

GIB = 2**30
YOLOX = TEMPLATES["yolox"]
EACH_TEMPLATE = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))


class StandIn:
    """A GPU of `free` bytes, on which a step takes `fixed` bytes and `each` for an image."""

    def __init__(self, free: float, fixed: float, each: float) -> None:
        self.free, self.fixed, self.each = int(free), fixed, each
        self.tried: list[int] = []

    def measure(
        self, _template: object, _params: object, _classes: int, images: int, _precision: str
    ) -> int | None:
        """Return the bytes of a step, None where torch would have raised."""
        self.tried.append(images)
        needed = int(self.fixed + images * self.each)
        return needed if needed <= self.free else None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it in the place of the machine's own."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(batch_size_choice, "read_free_memory", lambda: self.free)
        monkeypatch.setattr(batch_size_choice, "measure_step", self.measure)


def choose(template: Template = YOLOX) -> Any:
    return choose_batch_size(template, template.resolve(template.params()), 3, "auto")


@pytest.mark.parametrize(
    ("free", "each", "expected"),
    [
        (80 * GIB, 1 * GIB, 32),
        (80 * GIB, 2 * GIB, 32),
        (80 * GIB, 2.5 * GIB, 16),
        (10 * GIB, 1.0 * GIB, 8),
        (10 * GIB, 1.01 * GIB, 4),  # 8 images would leave less than a tenth
        (2 * GIB, 0.7 * GIB, 1),
    ],
)
def test_the_largest_power_of_two_with_a_tenth_to_spare_is_taken(
    free: float, each: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = StandIn(free, 1 * GIB, each)
    gpu.install(monkeypatch)
    choice = choose()
    assert choice.batch_size == expected
    assert gpu.tried[: expected.bit_length()] == [
        2**power for power in range(expected.bit_length())
    ]
    assert max(gpu.tried) <= 32
    assert f"{free / GIB:.1f} GiB of free memory" in choice.reason


def test_no_image_that_fits_is_an_error_before_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    StandIn(GIB, 1 * GIB, 1 * GIB).install(monkeypatch)
    with pytest.raises(MemoryExhaustedError, match=r"not even one image .* lower image_size"):
        choose()


def test_processes_share_the_images_and_rank_0_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    store: dict[str, bytes] = {}

    class Store:
        def set(self, name: str, value: str) -> None:
            store[name] = value.encode()

        def get(self, name: str) -> bytes:
            return store[name]

    StandIn(10 * GIB, 1 * GIB, 1 * GIB).install(monkeypatch)
    monkeypatch.setattr(torchrun, "get_store", Store)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    assert choose().batch_size == 24  # eight for each, and 48 would be over the maximum

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(batch_size_choice, "measure_step", None)
    assert choose().batch_size == 24


@EACH_TEMPLATE
def test_without_a_gpu_it_is_the_default(template: Template) -> None:
    choice = choose(template)
    assert choice.batch_size == template.params().batch_size
    assert "no GPU" in choice.reason


@EACH_TEMPLATE
def test_a_trial_step_runs_and_leaves_no_trace(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on the CPU here; what a GPU counts of its memory is replaced."""
    values = SMALL[template.name] | {"image_size": 288 if template.name == "ssd" else 64}
    values = {name: value for name, value in values.items() if name in get_params(template.params)}
    params = template.resolve(build(template.params, values))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7)

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert measure_step(template, params, 3, 2, "auto") == 7
    assert torch.equal(torch.rand(1), expected)


def test_memory_that_runs_out_in_a_trial_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(batch_size_choice, "run_step", fail)
    params = YOLOX.resolve(YOLOX.params())
    assert measure_step(YOLOX, params, 3, 2, "fp32") is None

    def fail_otherwise(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(batch_size_choice, "run_step", fail_otherwise)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        measure_step(YOLOX, params, 3, 2, "fp32")


def test_the_trial_has_as_many_images_of_the_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int, int]] = []
    real = draw_batch

    def draw(count: int, width: int, height: int, with_masks: bool) -> dict[str, Any]:
        drawn.append((count, width, height))
        return real(count, width, height, with_masks)

    monkeypatch.setattr(batch_size_choice, "draw_batch", draw)
    values = {"base_model": "yolox_nano", "image_size": 64, "random_resize_upper": 96}
    run_step(YOLOX, YOLOX.resolve(build(YOLOX.params, values)), 3, 2, "fp32")
    assert drawn == [(2, 96, 96)]
