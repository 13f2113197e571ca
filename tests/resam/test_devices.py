"""What a run asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from resam.cli import train
from resam.synthetic import write_dataset
from resam.training import devices
from resam.training.devices import make_fabric
from resam_runtime.common.errors import ResamError

FAULTS = """
import resource, sys
import torch
from resam.training.devices import make_fabric

if sys.argv[1] == "kept":
    make_fabric(1, "cpu")
counts = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MB
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*counts)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_run_on_a_cpu_gets_no_new_pages_for_what_it_has_freed() -> None:
    def faults(how: str) -> list[int]:
        ran = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return [int(count) for count in ran.stdout.split()]

    left, kept = faults("left"), faults("kept")
    assert min(left) > 1000, "each block is made of new pages"
    # a few find what is free a little too small for them
    assert sum(kept) < sum(left) / 3


@pytest.mark.parametrize(
    ("has", "precision", "encoder_dim", "chosen"),
    [
        (True, "auto", 768, "bf16-mixed"),
        (True, "auto", 160, "32-true"),
        (False, "auto", 768, "32-true"),
        (True, "fp32", 768, "32-true"),
        (False, "bf16", 160, "bf16-mixed"),
    ],
)
def test_a_wide_encoder_is_trained_in_bfloat16_where_the_cpu_multiplies_it(
    has: bool, precision: str, encoder_dim: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has}, raising=False)
    fabric = make_fabric(1, "cpu", precision, encoder_dim)
    assert fabric.strategy.precision.precision == chosen


def test_a_run_says_that_it_chose_bfloat16(base_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(devices, "WIDE", 1)
    write_dataset(tmp_path / "set", train=1, val=0, test=0, size=64)
    command = ["--data", str(tmp_path / "set"), "--base", str(base_file), "--epochs", "0", "--rank", "2"]
    result = CliRunner().invoke(train, [*command, "--accelerator", "cpu", "-o", str(tmp_path / "r")])
    assert result.exit_code == 0, result.output
    assert "half the time of --precision fp32" in " ".join(result.output.split())


def test_more_processes_than_a_machine_can_run_are_refused() -> None:
    with pytest.raises(ResamError, match="--devices 9999: at most"):
        make_fabric(9999, "cpu")
