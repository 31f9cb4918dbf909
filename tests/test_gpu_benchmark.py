"""What benchmarks/gpu.py does on a GPU, small and on the CPU: it must not fail for want of care."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from detreg.data.dataset import load_dataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_checks

    return gpu_checks


def test_checks_pass_at_toy_sizes(
    checks: ModuleType, store: str, tiny: Path, tmp_path: Path
) -> None:
    from gpu_sizes import TOY

    dataset = load_dataset(tiny)
    (group,) = checks.check_one_process_group(dataset, TOY)
    assert group.startswith("gloo: gradients differ by at most")

    (continuation,) = checks.check_continuation(dataset, TOY, "bf16", tmp_path)
    assert continuation.endswith("tensors equal to the last bit")

    images_a_second, waiting_share, _ = checks.measure_steps(
        "yolox", "bf16", dataset, TOY, tmp_path
    )
    assert float(images_a_second) > 0
    assert waiting_share.endswith("%")


def test_a_difference_fails_the_check(
    checks: ModuleType, store: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_sizes import TOY

    monkeypatch.setattr(checks, "SHARE_OF_GRADIENTS", -1.0)
    with pytest.raises(AssertionError, match="gradients differ"):
        checks.check_one_process_group(load_dataset(tiny), TOY)


@pytest.mark.soak
def test_the_whole_command_passes_at_toy_sizes() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
