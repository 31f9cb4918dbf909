"""Suggestions for misspelled names."""

import difflib
from collections.abc import Sequence


def suggest_spelling(word: str, words: Sequence[str]) -> str:
    """Return ` (did you mean X?)` if one of `words` is close to `word`, else an empty text."""
    normalized = word.lower().replace("-", "_")
    matches = difflib.get_close_matches(normalized, words, n=1, cutoff=0.6)
    if not matches:
        return ""
    return f" (did you mean {matches[0]}?)"
