"""Commands that continue a training, as they are printed after it or when it is interrupted."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from detreg import torchrun
from detreg.environment import find_program
from detreg.invocation import Invocation
from detreg.options import RunOptions
from detreg.params import to_changed_texts
from detreg.redaction import redact
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template

if TYPE_CHECKING:
    from detreg.tracking.runs import StoredCheckpoints


def format_training_command(
    template: str, values: Mapping[str, str], invocation: Invocation
) -> str:
    """Return the command that trains a template with these values, started as this process was.

    That is by `mlflow run` with the same project, by torchrun, or without either.
    """
    if invocation.project:
        project = redact(shlex.join(invocation.project))
        flags = [f"-P {name}={shlex.quote(value)}" for name, value in values.items()]
        return f"{find_program('mlflow')} run {project} -e {template} {' '.join(flags)}"

    flags = [f"--{name} {shlex.quote(value)}" for name, value in values.items()]
    return f"{torchrun.format_program()} train {template} {' '.join(flags)}"


def describe_interrupted(
    run_id: str,
    kept: "StoredCheckpoints | None",
    template: Template,
    params: CommonParams,
    options: RunOptions,
    invocation: Invocation,
) -> list[str]:
    """Return what an interrupted run keeps, and the command that goes on from there.

    `params` and `options` are those that the user gave.
    """
    if kept is None:
        place = f"run {run_id} has no checkpoint yet, so nothing of it is kept"
        advice = "to start again"
        values = to_changed_texts(params)
    else:
        done = f"epoch {kept.epoch}"
        if kept.step:
            done = f"step {kept.step} of epoch {kept.epoch + 1}"
        place = f"run {run_id} keeps its training up to {done} of {params.num_epochs}"
        advice = "to continue"
        continued = replace(params, load_from=None, continue_from_eid=run_id)
        # First, where it is seen.
        values = {"continue_from_eid": run_id} | to_changed_texts(continued)

    values |= to_changed_texts(options)
    command = format_training_command(template.name, values, invocation)
    return [place, f"{advice}: {command}"]
