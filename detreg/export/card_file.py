"""The card of a file that is exported already."""

from pathlib import Path

import onnx

from detreg.files import write_atomically
from detreg.inference.card import METADATA_KEY, Card


def replace_card(path: Path, card: Card) -> None:
    """Replace the card of an exported file, and nothing else in it."""
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = card.to_json()
    with write_atomically(path) as file:
        file.write(model.SerializeToString())
