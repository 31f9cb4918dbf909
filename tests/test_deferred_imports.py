"""Libraries that are imported when they are used, and what a training does without."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from detreg.deferred_imports import defer_imports

LIBRARY = """
class Base:
    size = 3

def double(value):
    return 2 * value
"""

USER = """
import some_library.inner as inner
from some_library.inner import Base, double

def show(value: Base | None) -> int | Base: ...
"""


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make some_library.inner and some_user, which imports it; neither is imported yet."""
    folder = tmp_path / "some_library"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text(LIBRARY)
    (tmp_path / "some_user.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)

    yield
    for name in ("some_user", "some_library", "some_library.inner"):
        sys.modules.pop(name, None)


def import_user() -> ModuleType:
    """Import what uses the library, which is deferred meanwhile."""
    with defer_imports("some_library"):
        import some_user  # type: ignore[import-not-found]
    module: ModuleType = some_user
    return module


def test_a_deferred_function_is_imported_when_it_is_called() -> None:
    user = import_user()
    assert "some_library" not in sys.modules
    assert user.double(4) == 8
    assert "some_library.inner" in sys.modules


def test_a_deferred_class_stands_for_the_real_one() -> None:
    user = import_user()
    made = user.Base()
    assert isinstance(made, user.Base)
    assert not isinstance(3, user.Base)
    assert issubclass(type(made), user.Base)
    assert user.Base.size == 3


def test_a_deferred_class_can_be_a_base() -> None:
    user = import_user()

    class Derived(user.Base):  # type: ignore[name-defined]
        pass

    assert Derived.size == 3
    assert Derived.__mro__[1] is sys.modules["some_library.inner"].Base


def test_a_deferred_module_has_the_real_parts_once_it_is_imported() -> None:
    user = import_user()
    assert user.inner.double(2) == 4
    assert user.inner.Base is sys.modules["some_library.inner"].Base


def test_an_import_after_the_block_is_real() -> None:
    import_user()
    import some_library.inner  # type: ignore[import-not-found]

    assert some_library.inner.Base.size == 3


def test_what_is_imported_already_stays() -> None:
    import some_library.inner as real

    user = import_user()
    assert user.double is real.double
    assert user.inner is real


def test_a_block_that_fails_leaves_no_stand_in() -> None:
    with pytest.raises(ZeroDivisionError), defer_imports("some_library"):
        import some_library.inner  # noqa: F401

        raise ZeroDivisionError
    assert "some_library" not in sys.modules
    assert "some_library.inner" not in sys.modules


IMPORT_WHAT_TRAINS = """
import sys
from types import SimpleNamespace

from detreg import pipeline
from detreg.templates import find_template

template = find_template("yolox")
dataset = SimpleNamespace(name="toys", origin="toys", digest="0")
with pipeline._prepare_stores(template, *pipeline.parse_settings(template, {}), dataset):
    from detreg import training_run

import torch
weight = torch.nn.Parameter(torch.ones(2))
for optimizer in (torch.optim.SGD([weight], lr=0.1), torch.optim.AdamW([weight])):
    weight.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print(*sys.modules)

# What was deferred works for those who use it.
from mmdet.models.dense_heads import paa_head
from mmdet.models.task_modules.assigners import hungarian_assigner
from mlflow.types.utils import _infer_schema
import pandas

print(paa_head.skm.GaussianMixture(2).n_components)
print(hungarian_assigner.linear_sum_assignment([[1, 0], [0, 1]])[1].tolist())
print(_infer_schema(pandas.DataFrame({"a": [1.5]})).input_names())
"""

NOT_NEEDED = {"matplotlib", "pandas", "pytorchcv", "scipy", "sklearn", "sympy", "timm", "onnx"}


def test_what_trains_imports_neither_compiler_nor_data_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    report = subprocess.run(
        [sys.executable, "-c", IMPORT_WHAT_TRAINS], capture_output=True, text=True, check=True
    )
    modules, *used = report.stdout.splitlines()
    loaded = set(modules.split())
    assert {"torch", "mmdet.models", "mlflow"} <= loaded
    assert not loaded & {*NOT_NEEDED, "torch._dynamo"}
    assert used == ["2", "[1, 0]", "['a']"]
