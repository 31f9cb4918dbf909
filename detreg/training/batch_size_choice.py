"""What batch_size=auto takes: the most images that fit into the GPU's memory.

They are a power of two for each process, and leave a tenth of the memory free. Without a GPU it is
the template's default: more images in a step are hardly faster there.
"""

from dataclasses import dataclass, replace

import torch

from detreg import torchrun
from detreg.errors import MemoryExhaustedError
from detreg.inference.from_template import make_preprocessing
from detreg.memory import Shortage, find_shortage
from detreg.params import get_params
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.precision import DTYPES, use_precision
from detreg.training.trial_steps import (
    build_trial_network,
    compute_trial_gradients,
    draw_batch,
    leave_no_trace,
)

SPARE = 0.1
"""Share of the GPU's memory that stays free: other batches have more boxes than a trial's."""

_KEY = "detreg/batch_size"
"""Where rank 0 leaves its choice for the other processes."""


@dataclass(frozen=True)
class BatchSizeChoice:
    """The images of a step, over all processes, and why so many were taken."""

    batch_size: int
    reason: str


def choose_batch_size(
    template: Template, params: CommonParams, num_classes: int, precision: str
) -> BatchSizeChoice:
    """Return what a new training takes where batch_size=auto; rank 0 decides for all processes.

    `precision` may be `auto`: what fits in fp32 fits in bf16 too.
    Raises MemoryExhaustedError where not even one image fits.
    """
    if torchrun.get_world_size() == 1:
        return _choose(template, params, num_classes, precision)

    store = torchrun.get_store()
    if torchrun.get_rank() > 0:
        return BatchSizeChoice(int(store.get(_KEY)), "as rank 0 has chosen")
    # The others come here after rank 0 has signaled that it is ready, which it does later.
    choice = _choose(template, params, num_classes, precision)
    store.set(_KEY, str(choice.batch_size))
    return choice


def _choose(
    template: Template, params: CommonParams, num_classes: int, precision: str
) -> BatchSizeChoice:
    param = get_params(template.params)["batch_size"]
    assert isinstance(param.default, int)
    assert param.maximum is not None
    if not torch.cuda.is_available():
        return BatchSizeChoice(param.default, "the template's default, as there is no GPU")

    processes = torchrun.get_world_size()
    free = read_free_memory()
    images, fitting, needed = 1, 0, 0
    while images * processes <= param.maximum:
        used = measure_step(template, params, num_classes, images, precision)
        if used is None or used > (1 - SPARE) * free:
            break
        images, fitting, needed = 2 * images, images, used

    if fitting == 0:
        raise MemoryExhaustedError(
            f"batch_size=auto: not even one image of a step fits into the GPU's free memory of "
            f"{_format_size(free)}: lower image_size, set precision=bf16, or end what else uses "
            "the GPU"
        )
    return BatchSizeChoice(
        fitting * processes,
        f"as a step needs {_format_size(needed)} of the GPU's {_format_size(free)} of free memory",
    )


def read_free_memory() -> int:
    """Return the bytes of the current GPU that this process can have."""
    torch.cuda.empty_cache()
    free, _total = torch.cuda.mem_get_info()
    return free


def measure_step(
    template: Template, params: CommonParams, num_classes: int, images: int, precision: str
) -> int | None:
    """Return the bytes that a step with so many images takes on the GPU, None if they do not fit.

    Images have the largest size of the training. What a training keeps on the GPU is counted:
    weights, their average, gradients, momentum.
    """
    with leave_no_trace():
        torch.cuda.reset_peak_memory_stats()
        try:
            run_step(template, params, num_classes, images, precision)
        except RuntimeError as error:
            if find_shortage(error) is not Shortage.GPU:
                raise
            return None
        return torch.cuda.max_memory_reserved()


def run_step(
    template: Template, params: CommonParams, num_classes: int, images: int, precision: str
) -> None:
    """Do one step of a network of its own on drawn images, with all that a training keeps."""
    network = build_trial_network(template, params, num_classes)
    use_precision(network, precision if precision in DTYPES else "fp32")
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    # In the place of the averaged weights.
    average = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)

    _, largest_size = params.random_sizes
    preprocessing = replace(make_preprocessing(template, params), image_size=largest_size)
    drawn = draw_batch(images, *preprocessing.largest_canvas, params.has_masks)
    compute_trial_gradients(network, network.data_preprocessor(drawn, True))
    optimizer.step()
    del average


def _format_size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
