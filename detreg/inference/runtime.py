"""Runs ONNX files with onnxruntime, on the GPU where there is one."""

import contextlib
import ctypes
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from detreg.errors import DataError, RefusedError, summarize_error
from detreg.inference.onnx_graph.check import INPUT, check_size
from detreg.inference.onnx_graph.structure import Graph
from detreg.inference.outputs import OutputArray
from detreg.inference.session import InputShape
from detreg.memory import find_memory_error

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

_ERRORS_ONLY = 3
# cuDNN's default search times every algorithm for every new input size, which takes seconds where
# sizes vary from image to image.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}


@dataclass(frozen=True, eq=False)
class OnnxSession:
    """A `Session` on onnxruntime, of a graph that was checked before it was opened."""

    inference_session: ort.InferenceSession
    graph: Graph
    checked_shapes: set[tuple[int, ...]] = field(default_factory=set)
    """Shapes of the input for which running the graph takes no more than it may."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata properties of the file."""
        metadata: dict[str, str] = self.inference_session.get_modelmeta().custom_metadata_map
        return metadata

    @property
    def device(self) -> str:
        """Where the model runs: "cuda" or "cpu"."""
        return "cuda" if self.inference_session.get_providers()[0] == CUDA else "cpu"

    @property
    def input_shape(self) -> InputShape:
        """The sizes that the graph was exported with."""
        shape = self.inference_session.get_inputs()[0].shape
        # A dynamic axis has a name, or nothing, in place of a number.
        sizes = [size if isinstance(size, int) else None for size in shape[:3]]
        return InputShape(*sizes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs of the graph."""
        return tuple(node.name for node in self.inference_session.get_outputs())

    def run(self, images: NDArray[np.uint8], output_names: Sequence[str]) -> dict[str, OutputArray]:
        """Return these outputs for images (n, height, width, 3) RGB.

        Raises DataError where the graph would take too much for images of this size or cannot run,
        and MemoryExhaustedError.
        """
        if images.shape not in self.checked_shapes:
            check_size(self.graph, images.shape)
            self.checked_shapes.add(images.shape)
        try:
            arrays = self.inference_session.run(list(output_names), {INPUT: images})
        except Exception as error:  # onnxruntime's exceptions have no common base class
            if without_memory := find_memory_error(error):
                raise without_memory from error
            raise DataError(
                f"onnxruntime cannot run the model ({summarize_error(error)})"
            ) from error
        return dict(zip(output_names, arrays, strict=True))


def open_session(
    model: bytes, graph: Graph, *, require_gpu: bool = False, threads: int | None = None
) -> OnnxSession:
    """Open an ONNX file's bytes on CUDA, else on the CPU.

    `graph` is what onnx_graph.check made of these bytes: onnxruntime trusts a file, so none gets
    here without it. `threads` is the number of threads on the CPU, by default one for each core.
    Raises RefusedError where `require_gpu` and the session does not run on CUDA, and DataError for
    a graph that onnxruntime does not take. Warns where there is a GPU that onnxruntime cannot use.
    """
    num_gpus = count_cuda_devices()
    use_cuda = num_gpus > 0 and CUDA in ort.get_available_providers()
    providers = [(CUDA, _CUDA_OPTIONS), CPU] if use_cuda else [CPU]
    if use_cuda and hasattr(ort, "preload_dlls"):
        # It prints the libraries that it does not find.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()

    try:
        opened = ort.InferenceSession(model, _make_options(threads), providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        if without_memory := find_memory_error(error):
            raise without_memory from error
        raise DataError(f"onnxruntime cannot open it ({summarize_error(error)})") from error

    session = OnnxSession(opened, graph)
    if session.device == "cpu":
        _report_missing_gpu(num_gpus, require_gpu)
    return session


def _make_options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    # Denormal numbers make a CPU several times slower, and a network that has hardly been trained
    # produces many.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Without this, threads keep spinning for a while after a run, and slow down whatever answers
    # the request. During a run they still spin.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def count_cuda_devices() -> int:
    """Return how many GPUs the CUDA driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0

    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _report_missing_gpu(num_gpus: int, require_gpu: bool) -> None:
    """Warn, or refuse where `require_gpu`, and say why the session runs on the CPU.

    onnxruntime falls back to the CPU by itself when a CUDA library is missing, so this is called
    for what the session got, not for what it was asked for.
    """
    if num_gpus == 0:
        reason = "the CUDA driver shows no GPU"
    elif CUDA not in ort.get_available_providers():
        reason = (
            "this onnxruntime is built without CUDA "
            "(install onnxruntime-gpu, and no onnxruntime beside it)"
        )
    else:
        reason = f"onnxruntime {ort.__version__} could not load its CUDA and cuDNN libraries"

    if require_gpu:
        raise RefusedError(
            f"A GPU is required, but {reason}; leave require_gpu out to run on the CPU"
        )
    if num_gpus:
        warnings.warn(f"Running on the CPU: {reason}", RuntimeWarning, stacklevel=3)
