"""Limits of containers, in the files in which Linux states them."""

from pathlib import Path

import psutil
import pytest

from detreg import cgroups

MIB = 1 << 20


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "MOUNT", tmp_path / "mount")
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "mount"


def set_membership(mount: Path, lines: str) -> None:
    mount.with_name("membership").write_text(lines)


def test_without_groups_the_machine_is_the_limit(mount: Path) -> None:
    assert 0 < cgroups.get_free_memory() <= psutil.virtual_memory().total
    assert 1 <= cgroups.count_cores() <= (psutil.cpu_count() or 1)


def test_the_smallest_limit_of_nested_groups_holds(mount: Path) -> None:
    set_membership(mount, "0::/job/task\n")
    outer = {
        "memory.max": str(20 * MIB),
        "memory.current": str(15 * MIB),
        "cpu.max": "50000 100000",
    }
    stat = f"anon 9\ninactive_file {2 * MIB}\nactive_file {MIB}"
    write_files(mount / "job", outer | {"memory.stat": stat})
    write_files(
        mount / "job/task", {"memory.max": "max", "memory.current": "1", "cpu.max": "max 9"}
    )
    assert cgroups.get_free_memory() == 8 * MIB
    assert cgroups.count_cores() == 1


def test_limits_of_a_container_that_does_not_see_its_own_path(mount: Path) -> None:
    set_membership(mount, "0::/../host/path\n")
    write_files(mount, {"memory.max": str(9 * MIB), "memory.current": str(10 * MIB)})
    assert cgroups.get_free_memory() == 0


def test_version_1_has_a_hierarchy_for_each_controller(mount: Path) -> None:
    set_membership(mount, "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n1:name=systemd:/\n")
    limits = {"memory.limit_in_bytes": str(7 * MIB), "memory.usage_in_bytes": str(3 * MIB)}
    write_files(mount / "memory", limits | {"memory.stat": f"total_inactive_file {MIB}"})
    write_files(mount / "cpu", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    assert cgroups.get_free_memory() == 5 * MIB
    assert cgroups.count_cores() >= 1
