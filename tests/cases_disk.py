"""Cases of what only a disk has: links, pipes, folders in place of files, and deep folders."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from dataset_builders import TRAIN, Files, at, build_coco, build_voc, build_yolo, write_files
from dataset_cases import Case, Pack
from dataset_readings import expect, expect_any

GIVEN = expect()
_ROBOFLOW = partial(
    build_yolo,
    place=at("{split}/images/{name}"),
    labels=at("{split}/labels/{stem}.txt"),
    settings="names: [cat, dog]\n",
)
_FORMATS: dict[str, Callable[[], Files]] = {
    "coco": build_coco,
    "voc": build_voc,
    "yolo": build_yolo,
    "yolo of Roboflow": _ROBOFLOW,
}


def _then(change: Callable[[Path], None]) -> Pack:
    """Return a way to write files, then change what was written."""

    def pack(path: Path, files: Files) -> Path:
        write_files(path, files)
        change(path)
        return path

    return pack


def _link_folder(name: str, folder: Path) -> None:
    """Move a folder to another place, and leave a link."""
    (folder.parent / "elsewhere").mkdir()
    target = (folder / name).rename(folder.parent / "elsewhere" / Path(name).name)
    (folder / name).symlink_to(target)


def _link_images(folder: Path) -> None:
    """Move each image to another place, and leave a link."""
    target = folder.parent / "elsewhere"
    target.mkdir()
    for path in sorted(folder.rglob("*.jpg")):
        moved = path.rename(target / path.name)
        path.symlink_to(moved)


def _link_root(path: Path, files: Files) -> Path:
    write_files(path.with_name("real"), files)
    path.symlink_to(path.with_name("real"))
    return path


def _add_loop(folder: Path) -> None:
    (folder / "all").symlink_to(folder)
    for path in [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]:
        (path / "up").symlink_to("..")
    (folder / "self").symlink_to("self")


def _add_deep_folders(folder: Path) -> None:
    here = folder
    for _ in range(300):
        here = here / "d"
    here.mkdir(parents=True)


def _replace_by_pipe(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def _replace_by_folder(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()


def _break_link(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("nowhere")


# Files that a dataset needs, and others that it does not.
_NEEDED = {
    "coco": ("annotations/instances_train.json", "images/train/p0.jpg"),
    "voc": ("Annotations/p0.xml", "ImageSets/Main/train.txt", "JPEGImages/p0.jpg"),
    "yolo": ("data.yaml", "labels/train/p0.txt", "images/train/p0.jpg"),
    "yolo of Roboflow": ("train/labels/p0.txt", "train/images/p0.jpg"),
}
_OTHERS = ("zz.json", "zz.xml", "zz.txt", "zz.yaml", "zz.jpg", "extra.csv")


def _make_cases() -> list[Case]:
    cases = []
    for format, build in _FORMATS.items():
        folder = {"voc": "JPEGImages", "yolo of Roboflow": "train"}.get(format, "images")
        packs: dict[str, Pack] = {
            "a link to its images": _then(partial(_link_folder, folder)),
            "links for images": _then(_link_images),
            "a link to it": _link_root,
            "links in circles": _then(_add_loop),
            "deep folders": _then(_add_deep_folders),
        }
        for name, pack in packs.items():
            # Deeper than any dataset: it may be given up, with a word on that.
            refused = ("deep",) if name == "deep folders" else None
            cases.append(Case(f"{format} with {name}", build, GIVEN, refused, pack=pack))

        for name in _NEEDED[format]:
            stem = Path(name).stem
            pipe = _then(partial(_replace_by_pipe, name))
            cases.append(Case(f"{format} with a pipe as {name}", build, refused=(stem,), pack=pipe))
            inner = _then(partial(_replace_by_folder, name))
            cases.append(
                Case(f"{format} with a folder as {name}", build, refused=(stem,), pack=inner)
            )
            broken = _then(partial(_break_link, name))
            cases.append(
                Case(f"{format} with a broken link as {name}", build, refused=(stem,), pack=broken)
            )
        for name in _OTHERS:
            # Refused with its name, or passed over; what matters is that nobody waits for it.
            pipe = _then(partial(_replace_by_pipe, name))
            cases.append(Case(f"{format} beside a pipe {name}", build, GIVEN, (name,), pack=pipe))
            inner = _then(partial(_replace_by_folder, name))
            cases.append(Case(f"{format} beside a folder {name}", build, GIVEN, pack=inner))
    return cases


_NAMES = "names: [cat, dog]\n"
_PLACES = _NAMES + "path: boats\ntrain: images/train\nval: images/val\n"

# Files above a folder without data.yaml that name it.
_ABOVE = {
    "../boats.yaml": _PLACES,
    "../data.yaml": _NAMES + "train: boats/images/train\nval: ./boats/images/val\n",
    "../Boats.YML": _PLACES.replace("path: boats", "path: ../datasets/boats"),
    "../../boats.yaml": _PLACES.replace("path: boats", "path: /home/me/boats"),
    "../../sets.yaml": _PLACES.replace("path: boats", "path: sets/boats"),
    "../win.yaml": _PLACES.replace("path: boats", "path: D:\\data\\boats"),
    "../lists.yaml": _NAMES + "path: boats\ntrain: [images/train]\nval: [images/val]\n",
}
# Files above it that do not.
_BESIDE = {
    "names alone": _NAMES,
    "of another folder": _PLACES.replace("boats", "ships"),
    "of a folder that is not there": _PLACES.replace("images/", "pictures/"),
    "broken": "names: [",
    "a list": "- names\n",
}


def _write_above(above: Mapping[str, str], path: Path, files: Files) -> Path:
    write_files(path, files)
    for name, text in above.items():
        (path / name).write_text(text)
    return path


def _make_yaml_above() -> list[Case]:
    bare = partial(build_yolo, settings=None)
    cases = []
    for name, text in _ABOVE.items():
        pack = partial(_write_above, {name: text})
        cases.append(
            Case(f"yolo below {name}", bare, GIVEN, None, ("above",), pack=pack, name="sets/boats")
        )
    for name, text in _BESIDE.items():
        pack = partial(_write_above, {"../boats.yaml": text})
        cases.append(
            Case(
                f"yolo below a yaml {name}", bare, refused=("names",), pack=pack, name="sets/boats"
            )
        )

    two = {"../a.yaml": _PLACES, "../b.yaml": _PLACES.replace("cat, dog", "dog, cat")}
    own = {"../boats.yaml": _PLACES.replace("cat, dog", "dog, cat")}
    train = {"../data.yaml": _NAMES + "train: ../train/images\nval: ../valid/images\n"}
    part = partial(build_yolo, TRAIN, at("images/{name}"), at("labels/{stem}.txt"), settings=None)
    return [
        *cases,
        Case(
            "yolo below two that differ",
            bare,
            refused=("a.yaml", "b.yaml"),
            pack=partial(_write_above, two),
            name="sets/boats",
        ),
        Case(
            "yolo with data.yaml below another",
            build_yolo,
            GIVEN,
            pack=partial(_write_above, own),
            name="sets/boats",
        ),
        Case(
            "one split of Roboflow's",
            part,
            expect_any(TRAIN),
            told=("above",),
            pack=partial(_write_above, train),
            name="boats/train",
        ),
    ]


DISK_CASES = [*_make_cases(), *_make_yaml_above()]
