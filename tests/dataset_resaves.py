"""Saves datasets again in other ways, which may change neither labels nor the digest."""

import json
import random

from dataset_builders import (
    Document,
    Files,
    add_bom,
    to_crlf,
)
from dataset_mutations import Mutation


def reorder(files: Files, rng: random.Random) -> Files:
    """Return the files in another order, with their entries in another order."""
    items = list(files.items())
    rng.shuffle(items)
    return {path: _reorder_entries(path, content, rng) for path, content in items}


def _reorder_entries(path: str, content: bytes, rng: random.Random) -> bytes:
    if path.endswith(".json"):
        return _write_json(_shuffle_document(json.loads(content), rng), rng)
    if path.endswith(".txt"):
        lines = content.splitlines(keepends=True)
        rng.shuffle(lines)
        return b"".join(lines)
    return content


def _shuffle_document(document: Document, rng: random.Random) -> Document:
    for entries in document.values():
        rng.shuffle(entries)
    keys = rng.sample(list(document), len(document))
    return {key: [_shuffle_keys(entry, rng) for entry in document[key]] for key in keys}


def _shuffle_keys(entry: Document, rng: random.Random) -> Document:
    return {key: entry[key] for key in rng.sample(list(entry), len(entry))}


def _write_json(document: Document, rng: random.Random) -> bytes:
    indent = rng.choice((None, 1, "\t"))
    return json.dumps(document, indent=indent, ensure_ascii=rng.random() < 0.5).encode()


def renumber(files: Files, rng: random.Random) -> Files:
    """Return the files with other ids, in the same order of categories."""
    return {
        path: _renumber_json(content, rng) if path.endswith(".json") else content
        for path, content in files.items()
    }


def _renumber_json(content: bytes, rng: random.Random) -> bytes:
    document = json.loads(content)
    images = _number_again(document["images"], rng)
    categories = _number_again(document["categories"], rng, ordered=True)
    _number_again(document["annotations"], rng)
    for entry in document["annotations"]:
        entry["image_id"] = images[entry["image_id"]]
        entry["category_id"] = categories[entry["category_id"]]
    return _write_json(document, rng)


def _number_again(
    entries: list[Document], rng: random.Random, ordered: bool = False
) -> dict[int, int]:
    """Give entries new ids and return them by the old ones."""
    numbers = rng.sample(range(10**6), len(entries))
    new = dict(
        zip(
            sorted(entry["id"] for entry in entries),
            sorted(numbers) if ordered else numbers,
            strict=True,
        )
    )
    for entry in entries:
        entry["id"] = new[entry["id"]]
    return new


def respell(files: Files, rng: random.Random) -> Files:
    """Return the files as an editor of another system would save them."""
    respelled = {}
    for path, content in files.items():
        if path.endswith((".txt", ".yaml", ".xml")) and rng.random() < 0.7:
            content = rng.choice((to_crlf, add_bom, bytes.rstrip, lambda text: text + b"\n"))(
                content
            )
        respelled[path] = content
    return respelled


HARMLESS: dict[str, Mutation] = {"reorder": reorder, "renumber": renumber, "respell": respell}
