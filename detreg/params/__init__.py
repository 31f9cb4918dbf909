"""Hyperparameters: declared once, as fields of a frozen dataclass.

    @dataclass(frozen=True, kw_only=True)
    class Params:
        batch_size: int = integer(8, 1, 32, 1, help="Images per optimizer step, over all GPUs")

Everything else is derived from the declaration: the command-line flag, the MLproject parameter, the
table in the docs, the check of a value, its text form and, for a sweep, its range. The text form is
what `mlflow run` passes and logs; `none` stands for an empty value.

- param.py: one declared value: parsing, checking, describing, formatting
- fields.py: the functions that declare the fields of a dataclass
- conversion.py: from texts to an instance of the dataclass, and back
"""

from detreg.params.conversion import (
    JsonValue,
    build,
    get_params,
    to_changed_texts,
    to_plain,
    to_texts,
)
from detreg.params.fields import (
    boolean,
    choice,
    integer,
    integer_or_auto,
    number,
    number_or_auto,
    numbers,
    size,
    text,
)
from detreg.params.param import AUTO, NONE, ImageSize, Param, ParamJson, Value
from detreg.params.spelling import suggest_spelling

__all__ = [
    "AUTO",
    "NONE",
    "ImageSize",
    "JsonValue",
    "Param",
    "ParamJson",
    "Value",
    "boolean",
    "build",
    "choice",
    "get_params",
    "integer",
    "integer_or_auto",
    "number",
    "number_or_auto",
    "numbers",
    "size",
    "suggest_spelling",
    "text",
    "to_changed_texts",
    "to_plain",
    "to_texts",
]
