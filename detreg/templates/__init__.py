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

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (YOLOX, YOLOF, SSD, FASTER_RCNN, INCEPTION_V4, INCEPTION_V2, MSC10)
}


def find_template(name: str) -> Template:
    """The template of a name or alias, in any case. Raises UsageError naming the near one."""
    names = {
        word.lower(): template
        for template in TEMPLATES.values()
        for word in (template.name, *template.aliases)
    }
    if name.lower() not in names:
        raise UsageError(
            f"unknown template {name}{suggest_spelling(name, tuple(names))}: there are {', '.join(TEMPLATES)}"
        )
    return names[name.lower()]
