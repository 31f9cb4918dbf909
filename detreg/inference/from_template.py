"""What describes the model of a template from outside: its preprocessing and its card.

Training, export and serving take both from here, so that all of them see the same input.
"""

from detreg.inference.card import Card
from detreg.inference.outputs import OUTPUTS
from detreg.inference.preprocessing import Preprocessing
from detreg.params import to_plain
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.version import __version__


def make_preprocessing(template: Template, params: CommonParams) -> Preprocessing:
    """Return how an image becomes the network's input."""
    base_model = template.get_base_model(params)
    return Preprocessing(
        image_size=params.image_size,
        keep_aspect_ratio=params.keep_aspect_ratio,
        max_aspect_ratio=params.max_aspect_ratio,
        pad_value=base_model.input.pad_value,
        pad_divisor=base_model.pad_divisor,
        smallest_input=base_model.smallest_input,
    )


def make_card(
    template: Template,
    params: CommonParams,
    classes: tuple[str, ...],
    score_threshold: float,
    dataset_digest: str | None,
    eid: str | None,
) -> Card:
    """Return the card of a model; a checkpoint of other origin has neither a digest nor an eid."""
    input_spec = template.get_base_model(params).input
    return Card(
        template=template.name,
        classes=classes,
        preprocessing=make_preprocessing(template, params),
        normalization={
            "mean": list(input_spec.mean),
            "std": list(input_spec.std),
            "channels": input_spec.channels,
        },
        hyperparameters=to_plain(params),
        eid=eid,
        dataset_digest=dataset_digest,
        score_threshold=score_threshold,
        detreg_version=__version__,
        outputs=tuple(
            output.name for output in OUTPUTS if params.has_masks or not output.is_optional
        ),
    )
