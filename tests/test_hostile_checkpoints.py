"""Checkpoints that a stranger might send are refused before they run code or fill the memory.

`pytest -m soak tests/test_hostile_checkpoints.py` reads each of them in a process of its own, and
measures its memory.
"""

import codecs
import collections
import io
import multiprocessing
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detreg.errors import DataError, DetregError, RefusedError
from detreg.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from detreg.training.epoch_metrics import EpochMetrics

MAX_PROCESS_BYTES = 1_500_000_000
MARKER = "code-was-run"

Content = dict[str, Any]


class Call:
    """Calls a function where it is unpickled without care."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def read_good_content(tmp_path: Path) -> Content:
    """Return what a checkpoint of detreg holds."""
    checkpoint = Checkpoint(
        state_dict={"backbone.w": torch.arange(100.0)},
        classes=("boat", "car"),
        epoch=3,
        best_epoch=2,
        best_score=0.25,
        history=(EpochMetrics(1, {"loss": 2.0}, {"mAP": 0.25}),),
        training={"optimizer": {"state": {}}},
    )
    save_checkpoint(tmp_path / "good.pth", checkpoint)
    content: Content = torch.load(tmp_path / "good.pth", weights_only=True)
    return content


def change(*path: str, to: object) -> Callable[[Content, Path], None]:
    """Return what writes a checkpoint in which the value at a path of keys is another one."""

    def write(content: Content, file: Path) -> None:
        *parents, last = path
        place = content
        for key in parents:
            place = place[key]
        place[last] = to
        torch.save(content, file)

    return write


def remove(*path: str) -> Callable[[Content, Path], None]:
    def write(content: Content, file: Path) -> None:
        *parents, last = path
        place = content
        for key in parents:
            place = place[key]
        del place[last]
        torch.save(content, file)

    return write


def write_legacy(value: object) -> Callable[[Content, Path], None]:
    """Return what writes a checkpoint in torch's format before zips."""

    def write(content: Content, file: Path) -> None:
        content["meta"]["extra"] = value
        torch.save(content, file, _use_new_zipfile_serialization=False)

    return write


def rewrite_zip(
    change_member: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> Callable[[Content, Path], None]:
    """Return what writes a checkpoint, and then its zip again with other members."""

    def write(content: Content, file: Path) -> None:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        original = zipfile.ZipFile(buffer)
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name in original.namelist():
                archive.writestr(name, change_member(name, original.read(name)))

    return write


def shorten_tensors(name: str, data: bytes) -> bytes:
    return data[:16] if "/data/" in name else data


def inflate_tensors(name: str, data: bytes) -> bytes:
    return data + bytes(64 << 20) if "/data/" in name else data


def write_overlapping_members(content: Content, file: Path) -> None:
    """List one member a thousand times, as zip bombs without compression do."""
    content["state_dict"]["backbone.w"] = torch.zeros(1_000_000)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    archive = zipfile.ZipFile(buffer, "a")
    (member,) = [entry for entry in archive.infolist() if entry.filename.endswith("/data/0")]
    archive.filelist.extend([member] * 1000)
    archive._didModify = True  # type: ignore[attr-defined]  # so that the list is written again
    archive.close()
    file.write_bytes(buffer.getvalue())


def write_two_ends(content: Content, file: Path) -> None:
    """Put a comment after the list of members, in which there may be another list."""
    torch.save(content, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(18)


def write_pickle(data: bytes) -> Callable[[Content, Path], None]:
    """Return what writes a zip with other bytes in place of the pickle."""
    return rewrite_zip(lambda name, old: data if name.endswith("data.pkl") else old)


def write_bytes(data: bytes) -> Callable[[Content, Path], None]:
    def write(_: Content, file: Path) -> None:
        file.write_bytes(data)

    return write


def nest(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def share(levels: int) -> list[object]:
    """Return a list that holds 2**levels others, in few bytes."""
    value: list[object] = []
    for _ in range(levels):
        value = [value, value]
    return value


def expand(*shape: int) -> torch.Tensor:
    return torch.zeros(1).expand(*shape)


ENCODE = codecs.encode
ONE_STORAGE = torch.zeros(1).storage()
ENORMOUS = (10**6, 10**6)

RUNS_CODE: dict[str, Callable[[Content, Path], None]] = {
    "os.system": change("meta", to=Call(os.system, f"touch {MARKER}")),
    "os.system in a legacy file": write_legacy(Call(os.system, f"touch {MARKER}")),
    "eval": change("meta", to=Call(eval, f"open('{MARKER}', 'w')")),
    "class of its own": change("meta", to=collections.deque([1])),
    "name found at run time": write_pickle(b"\x80\x04\x8c\x02os\x8c\x06system\x93."),
    "object made by the oldest step": write_pickle(b"(cos\nsystem\no."),
    "instance by name": write_pickle(b"(ios\nsystem\n."),
    "extension": write_pickle(b"\x80\x02\x82\x01."),
    "bytearray of 10**11": change("meta", to=Call(bytearray, 10**11)),
    "empty tensor of 10**11": change("meta", to=Call(torch.FloatTensor, 10**11)),
    "copy of an enormous tensor": change(
        "meta",
        to=Call(
            torch._utils._rebuild_device_tensor_from_cpu_tensor,
            expand(*ENORMOUS),
            torch.float64,
            torch.device("cpu"),
            False,
        ),
    ),
    "tensor without storage": change(
        "state_dict",
        to={
            "w": Call(
                torch._utils._rebuild_meta_tensor_no_storage, torch.float32, ENORMOUS, (1, 1), False
            )
        },
    ),
    "sparse tensor": change("state_dict", "w", to=torch.eye(3).to_sparse()),
    "encoding that takes for ever": change("meta", to=Call(ENCODE, "x", "punycode")),
}

BROKEN: dict[str, Callable[[Content, Path], None]] = {
    "compressed": rewrite_zip(lambda _, data: data, zipfile.ZIP_DEFLATED),
    "compressed with bzip2": rewrite_zip(lambda _, data: data, zipfile.ZIP_BZIP2),
    "64 MB in 64 KB": rewrite_zip(inflate_tensors, zipfile.ZIP_DEFLATED),
    "members over each other": write_overlapping_members,
    "two lists of members": write_two_ends,
    "tensor larger than its bytes": rewrite_zip(shorten_tensors),
    "tensor of one element, 10**12 times": change("state_dict", "w", to=expand(*ENORMOUS)),
    "the same in the optimizer": change("training", "optimizer", to={"state": expand(*ENORMOUS)}),
    "tensor with a negative stride": change(
        "state_dict",
        "w",
        to=Call(torch._utils._rebuild_tensor_v2, ONE_STORAGE, 0, (3,), (-1,), False, {}),
    ),
    "tensor beyond its storage": change(
        "state_dict",
        "w",
        to=Call(torch._utils._rebuild_tensor_v2, ONE_STORAGE, 10**9, (3,), (1,), False, {}),
    ),
    "wrong arguments of a function": change(
        "state_dict", "w", to=Call(torch._utils._rebuild_tensor_v2, 1, 2, 3, 4, 5, 6)
    ),
    "meta as text": change("meta", to="none"),
    "meta as a tensor": change("meta", to=torch.zeros(2)),
    "classes as a tensor": change("meta", "dataset_meta", to={"CLASSES": torch.zeros(2)}),
    "dataset_meta as a tensor": change("meta", "dataset_meta", to=torch.zeros(2)),
    "dataset_meta as a list": change("meta", "dataset_meta", to=[1]),
    "classes of numbers": change("meta", "dataset_meta", to={"CLASSES": [1, 2]}),
    "classes as a number": change("meta", "dataset_meta", to={"CLASSES": 80}),
    "half a surrogate pair in a class": change(
        "meta", "dataset_meta", to={"CLASSES": ["\ud800", "boat"]}
    ),
    "classes that hold themselves 2**60 times": change(
        "meta", "dataset_meta", to={"CLASSES": share(60)}
    ),
    "epoch as text": change("meta", "epoch", to="three"),
    "epoch of NaN": change("meta", "epoch", to=float("nan")),
    "epoch below 0": change("meta", "epoch", to=-1),
    "epoch of 2**1000": change("meta", "epoch", to=2**1000),
    "epoch missing": remove("meta", "epoch"),
    "best_epoch as a list": change("meta", "best_epoch", to=[1]),
    "best_mAP of NaN": change("meta", "best_mAP", to=float("nan")),
    "best_mAP as text": change("meta", "best_mAP", to="0.3"),
    "best_mAP of 2**1000": change("meta", "best_mAP", to=2**1000),
    "history missing": remove("meta", "history"),
    "history as a number": change("meta", "history", to=7),
    "history of texts": change("meta", "history", to=["a"]),
    "history with text for a number": change("meta", "history", to=[{"epoch": 1, "val/mAP": "x"}]),
    "history without an epoch": change("meta", "history", to=[{"val/mAP": 0.1}]),
    "history with epoch infinity": change("meta", "history", to=[{"epoch": float("inf")}]),
    "history with epoch 0": change("meta", "history", to=[{"epoch": 0}]),
    "history nested 2**60 times": change("meta", "history", to=share(60)),
    "training as text": change("training", to="sgd"),
    "training without an optimizer": change("training", to={}),
    "no weights": change("state_dict", to={}),
    "weights as a list": change("state_dict", to=[1]),
    "weights without names": change("state_dict", to={1: torch.zeros(1)}),
    "not a dict": lambda _, file: torch.save([1], file),
    "empty file": write_bytes(b""),
    "photograph": write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20),
    "the start of a zip": write_bytes(b"PK\x03\x04" + bytes(1000)),
    "empty pickle": write_pickle(b""),
    "pickle that ends early": write_pickle(b"\x80\x02}q\x00"),
    "pickle that takes from nothing": write_pickle(b"\x80\x02ttt."),
    "pickle that reads what it never kept": write_pickle(b"\x80\x02h\x99."),
    "pickle with a step that there is not": write_pickle(b"\x80\x02\xff."),
    "text of 4 GB": write_pickle(b"\x80\x02X\xff\xff\xff\xff."),
    "legacy file cut off": lambda content, file: cut_legacy(content, file),
}


SLOW: dict[str, Callable[[Content, Path], None]] = {
    "four million values": write_pickle(b"\x80\x02](" + b"K\x01" * 4_000_000 + b"e."),
}
"""Those that take seconds: for `make soak`."""


def cut_legacy(content: Content, file: Path) -> None:
    write_legacy(1)(content, file)
    file.write_bytes(file.read_bytes()[:-100])


def write_hostile(name: str, tmp_path: Path) -> Path:
    """Write the hostile checkpoint of a name."""
    file = tmp_path / "hostile.pth"
    writers = RUNS_CODE | BROKEN | SLOW
    writers[name](read_good_content(tmp_path), file)
    return file


@pytest.mark.parametrize("name", RUNS_CODE | BROKEN)
def test_a_hostile_checkpoint_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_hostile(name, tmp_path)
    with pytest.raises(RefusedError if name in RUNS_CODE else DataError) as refused:
        load_checkpoint(file)
    (problem,) = refused.value.problems
    assert "\n" not in problem
    assert len(problem) < len(str(tmp_path)) + 500
    assert not (tmp_path / MARKER).exists()


def test_files_that_are_not_regular_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name in ("fifo.pth", "zero.pth"):
        with pytest.raises(DataError, match="not a regular file"):
            load_checkpoint(tmp_path / name)


def test_files_in_the_format_before_zips_load(tmp_path: Path) -> None:
    """MMDetection's weights of 2020 have it."""
    content = read_good_content(tmp_path)
    write_legacy(1)(content, tmp_path / "legacy.pth")
    read = load_checkpoint(tmp_path / "legacy.pth")
    assert torch.equal(read.state_dict["backbone.w"], torch.arange(100.0))
    assert read.epoch == 3


def read_in_process(file: Path, folder: Path, pipe: Any) -> None:
    """Read a checkpoint, and send the exit code and how much more memory the process took."""
    os.chdir(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = 0
    try:
        load_checkpoint(file)
    except DetregError as error:
        code = error.exit_code
    except BaseException:
        code = 70
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send((code, (after - before) * 1024, after * 1024))


@pytest.mark.soak
def test_no_hostile_checkpoint_fills_the_memory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for name in RUNS_CODE | BROKEN | SLOW:
        file = write_hostile(name, tmp_path)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=read_in_process, args=(file, tmp_path, sender))
        process.start()
        assert receiver.poll(600), name
        code, more, peak = receiver.recv()
        process.join()
        print(f"{name:45s} exit {code}  {more >> 20} MiB more, {peak >> 20} in all")
        assert code == (77 if name in RUNS_CODE else 65), name
        assert peak < MAX_PROCESS_BYTES, name
        assert not (tmp_path / MARKER).exists()
