"""In which precision the trials of a sweep train: one for each template, chosen once.

The command that creates the study chooses, by trial steps with each template's first
hyperparameters, and writes the choice into the study. All workers of all machines read it there,
so that trials differ in nothing but what is searched.
"""

from collections.abc import Mapping
from multiprocessing.context import ForkServerContext

from optuna.study import Study

from detreg.sweeps import study as studies
from detreg.sweeps.plan import Plan
from detreg.sweeps.pool import choose_precisions
from detreg.sweeps.storage import StudyStorage, retry_while_unreachable

PRECISIONS_ATTR = "precisions"
"""Of a study: the precision of the trials of each template, by its name."""


def prepare_precisions(
    context: ForkServerContext, plan: Plan, storage: StudyStorage
) -> dict[str, str]:
    """Return the precision of each template, which a study gets if this command creates it.

    Nothing is tried out where the study exists already: the result is empty then. Two commands that
    create it at once both try, and one of them writes.
    """
    if plan.options.precision != "auto":
        return {template.name: plan.options.precision for template in plan.templates}
    if studies.has_study(plan.name, storage):
        return {}
    return choose_precisions(context, plan)


def agree_on_precisions(
    plan: Plan, study: Study, *, is_new: bool, prepared: Mapping[str, str]
) -> Plan:
    """Return the plan with the study's precisions, which are written here into a new study."""
    if plan.options.precision != "auto":
        return plan.with_precisions(prepared)
    if is_new:
        retry_while_unreachable(lambda: study.set_user_attr(PRECISIONS_ATTR, dict(prepared)))
        return plan.with_precisions(prepared)

    # A study of detreg 0.1 has none, but the run of its command.
    studies.wait_until(
        lambda: PRECISIONS_ATTR in study.user_attrs or studies.SWEEP_RUN_ATTR in study.user_attrs
    )
    trained_in_floats = {template.name: "fp32" for template in plan.templates}
    return plan.with_precisions(study.user_attrs.get(PRECISIONS_ATTR, trained_in_floats))
