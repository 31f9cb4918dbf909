"""What a dataset is meant for: the training whose sizes and anchors it is measured with."""

from dataclasses import dataclass

from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template


@dataclass(frozen=True)
class TrainingPlan:
    """A template with its hyperparameters."""

    template: Template
    params: CommonParams
