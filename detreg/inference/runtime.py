"""Opens ONNX files with onnxruntime, on the GPU where there is one."""

import contextlib
import ctypes
import sys
import warnings

import onnxruntime as ort

from detreg.errors import DataError, RefusedError

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

_ERRORS_ONLY = 3
# cuDNN's default search times every algorithm for every new input size, which takes seconds where sizes vary from picture to picture.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}


def open_session(
    model: bytes, *, require_gpu: bool = False, threads: int | None = None
) -> ort.InferenceSession:
    """Opens an ONNX file's bytes on CUDA, else on the CPU; `threads` (CPU) is all cores unless given.

    Raises RefusedError where `require_gpu` and the session does not run on CUDA, DataError for bytes that are no ONNX model. Where
    there is a GPU that onnxruntime cannot use, a warning says so.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    # Numbers too small for the usual format make a CPU several times slower, and a network that has learnt little makes many.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # After a run its threads would spin on for a while, in the way of what answers the request; within a run they still do.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    gpus = cuda_devices()
    use_cuda = gpus > 0 and CUDA in ort.get_available_providers()
    if use_cuda and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            ort.preload_dlls()
    try:
        session = ort.InferenceSession(
            model, options, providers=[(CUDA, _CUDA_OPTIONS), CPU] if use_cuda else [CPU]
        )
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise DataError(f"onnxruntime cannot open it ({str(error).splitlines()[0]})") from error
    _check_device(session, gpus, require_gpu)
    return session


def cuda_devices() -> int:
    """How many GPUs the CUDA driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _check_device(session: ort.InferenceSession, gpus: int, require_gpu: bool) -> None:
    # onnxruntime falls back to the CPU by itself when a CUDA library is missing, so what counts is what the session got.
    if session.get_providers()[0] == CUDA:
        return
    if gpus == 0:
        reason = "the CUDA driver shows no GPU"
    elif CUDA not in ort.get_available_providers():
        reason = "this onnxruntime is built without CUDA (install onnxruntime-gpu, and no onnxruntime beside it)"
    else:
        reason = f"onnxruntime {ort.__version__} could not load its CUDA and cuDNN libraries"
    if require_gpu:
        raise RefusedError(
            f"A GPU is required, but {reason}; leave require_gpu out to run on the CPU"
        )
    if gpus:
        warnings.warn(f"Running on the CPU: {reason}", RuntimeWarning, stacklevel=2)
