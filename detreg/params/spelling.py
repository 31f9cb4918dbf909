"""Suggestions for misspelled names, and for what other tools call them."""

import difflib
from collections.abc import Sequence

NAMES_ELSEWHERE = {
    "arch": "base_model",
    "backbone": "base_model",
    "batch": "batch_size",
    "bs": "batch_size",
    "checkpoint": "load_from",
    "conf": "score_threshold",
    "dataset": "data",
    "epochs": "num_epochs",
    "freeze": "frozen_stages",
    "img_size": "image_size",
    "imgsz": "image_size",
    "learning_rate": "per_item_lrate",
    "lr": "per_item_lrate",
    "lr0": "per_item_lrate",
    "max_epochs": "num_epochs",
    "name": "run_name",
    "resume": "continue_from_eid",
    "size": "image_size",
    "threshold": "score_threshold",
    "weights": "load_from",
}
"""detreg's name of what other tools call by the key."""
DEVICE_NAMES = ("cuda", "device", "devices", "gpu", "gpus")


def suggest_spelling(word: str, words: Sequence[str]) -> str:
    """Return ` (did you mean X?)` if one of `words` is close to `word`, else an empty text.

    Close is also what other tools call it.
    """
    normalized = word.lower().replace("-", "_")
    if normalized in DEVICE_NAMES:
        return " (the first GPU is used where there is one; CUDA_VISIBLE_DEVICES chooses another)"

    meant = NAMES_ELSEWHERE.get(normalized)
    if meant in words:
        return f" (did you mean {meant}?)"
    matches = difflib.get_close_matches(normalized, words, n=1, cutoff=0.6)
    if not matches:
        return ""
    return f" (did you mean {matches[0]}?)"
