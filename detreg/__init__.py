"""detreg trains, tunes, registers and serves object detectors from templates.

Nothing heavy is imported until it is used: `from detreg import Detector` needs neither torch nor
mmdet; `detreg.train` does, and raises UsageError where they are not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from detreg.full_install import require_full_install
from detreg.version import __version__

if TYPE_CHECKING:
    from detreg.inference.detections import Detections as Detections
    from detreg.inference.detector import Detector as Detector
    from detreg.inference.images import read as read

    # The keywords of each template, for editors and type checkers; at run time it is of pipeline.
    from detreg.signatures import train as train
    from detreg.sweeps.sweep import sweep as sweep

_HOMES = {
    "Detections": "detreg.inference.detections",
    "Detector": "detreg.inference.detector",
    "read": "detreg.inference.images",
    "sweep": "detreg.sweeps.sweep",
    "train": "detreg.pipeline",
}
_NEED_FULL_INSTALL = ("sweep", "train")
__all__ = ["Detections", "Detector", "__version__", "read", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detreg' has no attribute {name!r}")
    if name in _NEED_FULL_INSTALL:
        require_full_install(f"detreg.{name}")
    return getattr(import_module(_HOMES[name]), name)
