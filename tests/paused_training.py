"""`detreg train` that waits at a named point until a signal has come, however it was started.

Python runs the code for that first, as a `sitecustomize`, so that commands are those of a user.
"""

import os
import subprocess
import time
from pathlib import Path

from faulty_training import Point

ROOT = Path(__file__).parents[1]

_SITECUSTOMIZE = """
import os
import sys


def is_paused_training():
    words = sys.orig_argv
    is_training = "detreg" in words and words[words.index("detreg") - 1] == "-m"
    is_launcher = "torch.distributed.run" in words
    is_process = os.environ.get("RANK", "0") == os.environ.get("PAUSE_RANK")
    return is_training and is_process and not is_launcher


if is_paused_training():
    from contextlib import ExitStack
    from pathlib import Path

    from faulty_training import Point, inject, wait_for_signal

    stack = ExitStack()
    point = Point(os.environ["PAUSE_POINT"])
    pause_file = Path(os.environ["PAUSE_FILE"])
    stack.enter_context(inject(point, lambda: wait_for_signal(pause_file)))
"""


def prepare(folder: Path) -> dict[str, str]:
    """Return the environment for commands that train; nothing is paused yet."""
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    paths = [str(folder), str(Path(__file__).parent), str(ROOT)]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def pause(point: Point, pause_file: Path, rank: int = 0) -> dict[str, str]:
    """Return what to add to that environment, so that the process `rank` waits at the point."""
    return {"PAUSE_POINT": point, "PAUSE_FILE": str(pause_file), "PAUSE_RANK": str(rank)}


def wait(pause_file: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until the training of `process`, or of one that it started, waits at its point."""
    while not pause_file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
