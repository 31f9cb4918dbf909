"""The templates by name. A new one is a file in this folder and a line here."""

from detreg.errors import UsageError
from detreg.params import suggest_spelling
from detreg.templates.faster_rcnn import FASTER_RCNN
from detreg.templates.inception_v2 import INCEPTION_V2
from detreg.templates.inception_v4 import INCEPTION_V4
from detreg.templates.msc10 import MSC10
from detreg.templates.ssd import SSD
from detreg.templates.template import Template
from detreg.templates.yolof import YOLOF
from detreg.templates.yolox import YOLOX

_ALL = (YOLOX, YOLOF, SSD, FASTER_RCNN, INCEPTION_V4, INCEPTION_V2, MSC10)

TEMPLATES: dict[str, Template] = {template.name: template for template in _ALL}


def find_template(name: str) -> Template:
    """Return the template with a name or alias, in any case.

    Raises:
        UsageError: no template has it; the message suggests the nearest name.
    """
    by_word: dict[str, Template] = {}
    for template in TEMPLATES.values():
        for word in (template.name, *template.aliases):
            by_word[word.lower()] = template

    wanted = name.lower()
    if wanted not in by_word:
        suggestion = suggest_spelling(name, tuple(by_word))
        known = ", ".join(TEMPLATES)
        raise UsageError(f"unknown template {name}{suggestion}: must be one of {known}")
    return by_word[wanted]
