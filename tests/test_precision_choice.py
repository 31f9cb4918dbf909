"""precision=auto: which precision is taken, by whom, and that trial steps leave no trace."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from test_train_loop import assert_equal, prepare, train

from detreg import torchrun
from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import UsageError
from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training import precision_choice
from detreg.training.job import log_job
from detreg.training.precision_choice import (
    LARGEST_AREA,
    VARIABLE,
    PrecisionChoice,
    choose_precision,
    compute_trial_size,
    measure_steps,
)

YOLOX = TEMPLATES["yolox"]


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return load_dataset(str(tiny))


@pytest.fixture(scope="module")
def params() -> CommonParams:
    names = ("pretrained_weights", "frozen_stages", "image_size", "base_model")
    given = {name: SMALL["yolox"][name] for name in names}
    return YOLOX.resolve(build(YOLOX.params, given))


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take back what conftest.py has decided for all tests; the machine computes in bf16."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(precision_choice, "computes_in_bf16", lambda: True)
    return monkeypatch


def choose(monkeypatch: pytest.MonkeyPatch, params: CommonParams, seconds: float) -> str:
    """Return the choice where a step in bf16 takes so long, and one in fp32 a second."""
    measured = {"fp32": 1.0, "bf16": seconds}
    monkeypatch.setattr(precision_choice, "measure_steps", lambda *_: measured)
    return choose_precision(YOLOX, params, 3).precision


@pytest.mark.parametrize(
    ("seconds", "precision"), [(0.5, "bf16"), (0.99, "bf16"), (1.0, "fp32"), (2.0, "fp32")]
)
def test_the_faster_precision_is_taken(
    seconds: float, precision: str, undecided: pytest.MonkeyPatch, params: CommonParams
) -> None:
    assert choose(undecided, params, seconds) == precision


def test_a_machine_without_bf16_tries_nothing(
    undecided: pytest.MonkeyPatch, params: CommonParams
) -> None:
    undecided.setattr(precision_choice, "computes_in_bf16", lambda: False)
    undecided.setattr(precision_choice, "measure_steps", None)
    choice = choose_precision(YOLOX, params, 3)
    assert choice == PrecisionChoice("fp32", "as this machine does not compute in bf16")


@pytest.mark.parametrize(
    ("capability", "expected"), [("avx512_bf16", True), ("sve_bf16", True), ("avx2", False)]
)
def test_the_processor_is_asked(
    capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert precision_choice.computes_in_bf16() is expected


def test_a_gpu_that_is_too_small_for_trial_steps_takes_bf16(
    undecided: pytest.MonkeyPatch, params: CommonParams
) -> None:
    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    undecided.setattr(precision_choice, "measure_steps", fail)
    assert choose_precision(YOLOX, params, 3).precision == "bf16"


def test_the_environment_variable_decides(
    monkeypatch: pytest.MonkeyPatch, params: CommonParams
) -> None:
    monkeypatch.setenv(VARIABLE, "bf16")
    assert choose_precision(YOLOX, params, 3).precision == "bf16"
    monkeypatch.setenv(VARIABLE, "auto")
    with pytest.raises(UsageError, match="DETREG_PRECISION must be one of fp32, bf16, fp16"):
        choose_precision(YOLOX, params, 3)


class Store(dict[str, bytes]):
    """The launcher's store."""

    def set(self, name: str, value: str) -> None:
        """Keep a value as the bytes that others get."""
        self[name] = value.encode()


def test_rank_0_chooses_for_all(undecided: pytest.MonkeyPatch, params: CommonParams) -> None:
    store = Store()
    undecided.setattr(torchrun, "get_store", lambda: store)
    undecided.setenv("WORLD_SIZE", "2")
    undecided.setenv("RANK", "0")
    assert choose(undecided, params, seconds=0.5) == "bf16"
    undecided.setenv("RANK", "1")
    assert choose(undecided, params, seconds=2) == "bf16"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_trial_images_are_small_but_not_too_small(template: Template) -> None:
    for name, base_model in template.base_models.items():
        given = build(template.params, {"base_model": name})
        width, height = compute_trial_size(template, given)
        assert min(width, height) >= base_model.smallest_input
        # Sides are rounded up.
        assert width * height <= 1.3 * LARGEST_AREA


def test_trial_steps_leave_no_trace(
    undecided: pytest.MonkeyPatch,
    dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Real ones; their times are replaced. The training is that of precision=fp32 to the bit."""
    plain = train(prepare("yolox", dataset, precision="fp32"), tmp_path)
    capsys.readouterr()
    calls = []

    def measure(*args: object) -> dict[str, float]:
        seconds = measure_steps(*args)  # type: ignore[arg-type]
        assert all(0 < value < float("inf") for value in seconds.values())
        calls.append(seconds)
        return {"fp32": 1.0, "bf16": 1.0}

    undecided.setattr(precision_choice, "measure_steps", measure)
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    job = prepare("yolox", dataset)

    assert len(calls) == 1
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    line = "precision=fp32, as a trial step in bf16 takes 1.00 times one in fp32 (precision=auto)"
    assert line in capsys.readouterr().out
    assert_equal(train(job, tmp_path).end, plain.end)


def test_the_choice_is_logged(store: str, dataset: Dataset, undecided: pytest.MonkeyPatch) -> None:
    undecided.setattr(precision_choice, "measure_steps", lambda *_: {"fp32": 1.0, "bf16": 0.5})
    job = prepare("yolox", dataset)
    assert job.config.train_cfg.precision == "bf16"
    assert job.to_json()["options"]["precision"] == "bf16"  # type: ignore[index]

    with runs.start_run(None, job.tags) as run:
        run.log_params({"precision": "auto"})  # as `mlflow run` does before detreg begins
        log_job(run, job)
    logged = runs.get_run(run.id).data.params
    assert logged["precision"] == "auto"
    assert logged["precision.resolved"] == "bf16"
