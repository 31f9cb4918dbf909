"""Files that anyone may have made: one line, exit code 65, no code run, no hang, little memory."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hostile_archives import ARCHIVES, HEAVY_ARCHIVES, Builder
from hostile_archives import PHRASES as ARCHIVE_PHRASES
from hostile_datasets import DATASETS, HEAVY_DATASETS
from hostile_datasets import PHRASES as DATASET_PHRASES
from small_datasets import write_pets

from detreg.cli import run
from detreg.data import load_dataset
from detreg.errors import DataError

LIGHT: tuple[Builder, ...] = (*ARCHIVES, *DATASETS)
HEAVY: tuple[Builder, ...] = (*HEAVY_ARCHIVES, *HEAVY_DATASETS)
PHRASES = {**ARCHIVE_PHRASES, **DATASET_PHRASES}
MAX_MEMORY = 1.5e9  # bytes
FUZZ_ROUNDS = 3000
TIMEOUT = 300  # seconds, on a machine that is busy

CHILD = """
import resource, sys
from detreg.cli import run
code = run(["check", sys.argv[1]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""


def get_name(builder: Builder) -> str:
    return builder.__name__


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("build", LIGHT, ids=get_name)
def test_hostile_file_is_refused_with_lines_that_can_be_printed(
    build: Builder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "in"
    folder.mkdir()
    data = build(folder)

    assert run(["check", str(data)]) == 65
    printed = capsys.readouterr()
    assert PHRASES.get(build, "") in printed.out
    assert printed.err == ""
    with pytest.raises(DataError) as caught:
        load_dataset(data)

    for problem in caught.value.problems:
        assert problem.isprintable()
        assert problem.encode()
        assert len(problem) <= 2000
    assert len(caught.value.problems) <= 101
    assert not list(tmp_path.rglob("evil.txt"))
    assert not list(tmp_path.glob("cache/archives/.*"))


TOKENS = (
    b"", b"[", b"{", b'"', b"\0", b"\n", b"null", b"-1", b"1e999", b"NaN", b"9" * 5000, b"\xff\xfe",
    b"\\ud800", b"<a>", b"&a;", b"*a", b"&a ", b"!!python/name:os.system", b"../", b"/dev/zero",
)  # fmt: skip


def mutate(content: bytes, random: Random) -> bytes:
    """Return the content with a few random changes."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(data))
        end = min(len(data), start + random.choice((0, 1, 1, 4, 50)))
        kind = random.randrange(4)
        if kind == 0:
            data[start:end] = random.choice(TOKENS)
        elif kind == 1:
            data[start:end] = random.randbytes(end - start)
        elif kind == 2:
            data[start:end] = data[start:end] * random.choice((2, 50))
        else:
            is_cut_off = random.random() < 0.2
            del data[start : len(data) if is_cut_off else end]
    return bytes(data)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_mutated_datasets_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Change files of valid datasets and archives at random; the seed is in the message."""
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    codes: Counter[int] = Counter()
    for seed in range(FUZZ_ROUNDS):
        random = Random(seed)
        folder = write_pets(tmp_path / "pets", random.choice(("coco", "voc", "yolo")))
        data = folder
        if random.random() < 0.3:
            kind = random.choice(("zip", "tar", "gztar", "xztar", "bztar"))
            data = Path(shutil.make_archive(str(tmp_path / "boxed"), kind, folder))
            victim = data
        else:
            victim = random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        victim.write_bytes(mutate(victim.read_bytes(), random))

        code = run(["check", str(data)])
        codes[code] += 1
        assert code in (0, 65), f"seed {seed}: {capsys.readouterr()}"
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{FUZZ_ROUNDS} mutated datasets: {dict(codes)}")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_hostile_files_need_little_time_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run all of them in processes of their own, and print a table."""
    rows = []
    for build in (*LIGHT, *HEAVY):
        folder = tmp_path / build.__name__
        folder.mkdir()
        data = build(folder)
        environment = {**os.environ, "DETREG_CACHE": str(folder / "cache")}

        start = time.monotonic()
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(data)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        seconds = time.monotonic() - start
        *lines, memory = child.stderr.splitlines()
        rows.append((build.__name__, child.returncode, seconds, int(memory), lines))
        assert PHRASES.get(build, "") in child.stdout

    with capsys.disabled():
        print()
        for name, code, seconds, peak, _ in rows:
            print(f"{name:50} exit {code}  {seconds:6.1f} s  {peak / 1e6:6.0f} MB")
    assert [row for row in rows if row[1] != 65 or row[3] > MAX_MEMORY or row[4]] == []
