"""What is wrong with a dataset, told together with what is wrong with a command's values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from detreg import torchrun
from detreg.data.dataset import load_dataset
from detreg.data.source import SAMPLE
from detreg.errors import DetregError, UsageError
from detreg.progress import show_progress


@contextmanager
def add_data_problems(values: Mapping[str, object]) -> Iterator[None]:
    """Add the problems of the dataset in `values` to a UsageError that the block raises.

    A user gets all of them at once, with the exit code of the values. Nothing is read twice: the
    cache keeps what is known of the images for the command whose values are right.
    """
    try:
        yield
    except UsageError as error:
        problems = _list_data_problems(values, error)
        if not problems:
            raise
        raise UsageError([*error.problems, *problems]) from error


def _list_data_problems(values: Mapping[str, object], error: UsageError) -> list[str]:
    data = values.get("data", SAMPLE)
    is_refused = any(problem.startswith("data ") for problem in error.problems)
    if not isinstance(data, str | Path) or data == SAMPLE or is_refused or torchrun.get_rank() > 0:
        return []

    masks = str(values.get("masks")).lower() == "true"
    on_bad_image = "skip" if values.get("on_bad_image") == "skip" else "refuse"
    try:
        with show_progress() as progress:
            load_dataset(data, progress=progress, on_bad_image=on_bad_image, masks=masks)
    except DetregError as found:
        return list(found.problems)
    return []
