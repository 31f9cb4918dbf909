"""detreg trains, tunes, registers and serves object detectors from templates.

Nothing heavy is imported until it is used: `from detreg import Detector` needs neither torch nor
mmdet, `detreg.train` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from detreg.version import __version__

if TYPE_CHECKING:
    from detreg.inference.detections import Detections as Detections
    from detreg.inference.detector import Detector as Detector
    from detreg.pipeline import train as train
    from detreg.sweeps.sweep import sweep as sweep

_HOMES = {
    "Detections": "detreg.inference.detections",
    "Detector": "detreg.inference.detector",
    "sweep": "detreg.sweeps.sweep",
    "train": "detreg.pipeline",
}
__all__ = ["Detections", "Detector", "__version__", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detreg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
