"""Parses YAML that anyone may have written; see documents.py."""

from typing import Any

import yaml

from detreg.documents import LONG_NUMBER, DocumentError, decode_text
from detreg.errors import quote, shorten
from detreg.files import format_bytes

MAX_YAML_BYTES = 1 << 20

_MAX_MERGED_KEYS = 10_000
_MAX_REASON = 200
_MERGE_TAG = "tag:yaml.org,2002:merge"


class _BoundedLoader(yaml.SafeLoader):
    """A loader of plain values, in which merges (`<<`) cannot grow without end.

    A key that is given twice is an error, as YAML itself has it: PyYAML would forget the first one.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping as it is written, before anything is merged into it."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{quote(key.value)} is given twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put the keys of merged mappings into a mapping."""
        super().flatten_mapping(node)
        if len(node.value) > _MAX_MERGED_KEYS:
            raise yaml.constructor.ConstructorError(
                None, None, "merges make too many keys", node.start_mark
            )


class _TextLoader(_BoundedLoader):
    """A loader that leaves numbers and words such as `no` as the text that they are."""


# As yaml.BaseLoader does, which resolves nothing.
_TextLoader.yaml_implicit_resolvers = {}


def parse_yaml(content: bytes, *, only_text: bool = False) -> object:
    """Return the value of a YAML document; with `only_text`, every scalar as text.

    Raises DocumentError.
    """
    if len(content) > MAX_YAML_BYTES:
        raise DocumentError(
            f"the file has more than {format_bytes(MAX_YAML_BYTES)}, the most that is read of "
            "YAML; name lists of files in it instead of listing files"
        )

    loader: Any = _TextLoader if only_text else _BoundedLoader
    try:
        return yaml.load(decode_text(content), Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        reason = shorten(str(error.problem), _MAX_REASON)
        raise DocumentError(f"line {line} is not YAML ({reason}); correct it") from error
    except RecursionError as error:
        raise DocumentError("the file is YAML nested too deeply; write it again") from error
    # Dates that do not exist, numbers that are too long, keys that cannot be keys.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        if isinstance(error, DocumentError):
            raise
        if "int_max_str_digits" in str(error):
            raise DocumentError(LONG_NUMBER) from error
        reason = shorten(" ".join(str(error).split()), _MAX_REASON)
        raise DocumentError(f"the file is not YAML ({reason}); write it again") from error
