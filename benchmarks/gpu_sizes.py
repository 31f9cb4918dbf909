"""How large the trainings of gpu.py are."""

from dataclasses import dataclass, field
from typing import Any

from detreg.params import get_params
from detreg.templates import find_template

FROM_NOTHING: dict[str, Any] = {
    "pretrained_weights": "none",
    "pretrain_base_data": "none",
    "frozen_stages": 0,
}
SMALLEST: dict[str, dict[str, Any]] = {
    "yolox": {"base_model": "yolox_nano"},
    "msc10": {"base_model": "mobilenetv2_100"},
}


@dataclass(frozen=True)
class Sizes:
    """`images` of `drawn` (width, height) px; `steps` are those of a training of one epoch.

    `values` are the hyperparameters of every training; the others have their defaults.
    """

    images: int
    drawn: tuple[int, int]
    steps: int
    model_steps: int
    latency_runs: int
    has_smallest_models: bool = False
    values: dict[str, Any] = field(default_factory=dict)

    def get_values(self, template: str, steps: int) -> dict[str, Any]:
        """Return the values of a training from random weights with one epoch of so many steps."""
        params = find_template(template).params
        names = get_params(params)
        given = {**FROM_NOTHING, **self.values}
        if self.has_smallest_models:
            given |= SMALLEST.get(template, {})
        values = {name: value for name, value in given.items() if name in names}

        batch_size = values.get("batch_size", params().images_per_step)
        return {**values, "num_epochs": 1, "min_samples_per_epoch": steps * batch_size}


FULL = Sizes(images=400, drawn=(640, 480), steps=20, model_steps=60, latency_runs=20)
TOY = Sizes(
    images=30,
    drawn=(96, 80),
    steps=2,
    model_steps=2,
    latency_runs=2,
    has_smallest_models=True,
    values={"image_size": 64, "batch_size": 4, "num_workers": 0},
)
