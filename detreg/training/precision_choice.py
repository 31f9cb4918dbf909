"""What precision=auto takes: bf16 where the machine computes in it, and where it is faster."""

import math
import os
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from detreg import torchrun
from detreg.errors import UsageError, quote
from detreg.inference.from_template import make_preprocessing
from detreg.memory import Shortage, find_shortage
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.precision import DTYPES, use_precision
from detreg.training.trial_steps import (
    build_trial_network,
    compute_trial_gradients,
    draw_batch,
    leave_no_trace,
)

VARIABLE = "DETREG_PRECISION"
"""The environment variable that decides for `auto`, without trial steps."""

IMAGES = 2
"""Images of a trial step. Which precision is faster hardly depends on their number and size."""
LARGEST_AREA = 320 * 320
"""Pixels of each image, at most: one of 800 pixels costs a CPU ten seconds."""
LEAST_ROUNDS = 2
"""Trial steps in each precision, at least; the first one of them also compiles."""
MOST_ROUNDS = 8
TRIAL_SECONDS = 1.0
"""For so long small networks take further trial steps: single ones are disturbed easily."""

_AS_IN_PHOTOGRAPHS = (640, 480)
"""Width and height of an image before it is resized."""


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision (fp32, bf16 or fp16), and why it was taken."""

    precision: str
    reason: str


def choose_precision(template: Template, params: CommonParams, num_classes: int) -> PrecisionChoice:
    """Return what a new training takes where precision=auto; rank 0 decides for all processes.

    Raises UsageError where the environment variable has another value than a precision.
    """
    if torchrun.get_world_size() == 1:
        return _choose(template, params, num_classes)

    store = torchrun.get_store()
    if torchrun.get_rank() > 0:
        return PrecisionChoice(store.get(VARIABLE).decode(), "as rank 0 has chosen")
    # The others come here after rank 0 has signaled that it is ready, which it does later.
    choice = _choose(template, params, num_classes)
    store.set(VARIABLE, choice.precision)
    return choice


def _choose(template: Template, params: CommonParams, num_classes: int) -> PrecisionChoice:
    given = os.environ.get(VARIABLE)
    if given:
        if given not in DTYPES:
            names = ", ".join(DTYPES)
            raise UsageError(f"{VARIABLE} must be one of {names}, got {quote(given)}")
        return PrecisionChoice(given, f"as {VARIABLE} says")

    if not computes_in_bf16():
        return PrecisionChoice("fp32", "as this machine does not compute in bf16")

    try:
        seconds = measure_steps(template, params, num_classes)
    except RuntimeError as error:
        if find_shortage(error) is not Shortage.GPU:
            raise
        return PrecisionChoice("bf16", "as the GPU has too little memory for trial steps in fp32")
    ratio = seconds["bf16"] / seconds["fp32"]
    precision = "bf16" if ratio < 1 else "fp32"
    return PrecisionChoice(
        precision, f"as a trial step in bf16 takes {ratio:.2f} times one in fp32"
    )


def computes_in_bf16() -> bool:
    """Return whether the GPU has units for bf16; without a GPU, whether the processor has."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    names = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
    return any(capabilities.get(name, False) for name in names)


def measure_steps(template: Template, params: CommonParams, num_classes: int) -> dict[str, float]:
    """Return the seconds of a trial step, without the optimizer's, in fp32 and in bf16.

    They are real steps of a network of their own, on drawn images, and leave no trace: the random
    numbers that follow are those that would have followed without them.
    """
    with leave_no_trace():
        return _measure_steps(template, params, num_classes)


def _measure_steps(template: Template, params: CommonParams, num_classes: int) -> dict[str, float]:
    network = build_trial_network(template, params, num_classes)
    drawn = draw_batch(IMAGES, *compute_trial_size(template, params), params.has_masks)
    batch = network.data_preprocessor(drawn, True)

    seconds = {"fp32": math.inf, "bf16": math.inf}
    end = time.monotonic() + TRIAL_SECONDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a training
        # In turns, so that what else the machine does slows both down.
        for trial in range(MOST_ROUNDS):
            if trial >= LEAST_ROUNDS and time.monotonic() > end:
                break
            for precision, least in seconds.items():
                use_precision(network, precision)
                seconds[precision] = min(least, _time_step(network, batch))
    return seconds


def compute_trial_size(template: Template, params: CommonParams) -> tuple[int, int]:
    """Return the width and height of a photograph as the network sees it, or less."""
    preprocessing = make_preprocessing(template, params)
    width, height = preprocessing.compute_input_size(*_AS_IN_PHOTOGRAPHS)
    factor = min(1.0, math.sqrt(LARGEST_AREA / (width * height)))
    return preprocessing.compute_padded_size(int(width * factor), int(height * factor))


def _time_step(network: Any, batch: dict[str, Any]) -> float:
    """Return the seconds of a forward and a backward pass: the processor's own, or the GPU's."""
    begun = _read_clock()
    compute_trial_gradients(network, batch)
    network.zero_grad()
    return _read_clock() - begun


def _read_clock() -> float:
    if not torch.cuda.is_available():
        # Of this process alone, whatever else the machine does.
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
