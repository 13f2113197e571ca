"""What a run asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_run_on_a_cpu_gets_no_new_pages_for_what_it_has_freed() -> None:
    def faults(how: str) -> list[int]:
        ran = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return [int(count) for count in ran.stdout.split()]

    left, kept = faults("left"), faults("kept")
    assert min(left) > 1000, "each block is made of new pages"
    # a few find what is free a little too small for them
    assert sum(kept) < sum(left) / 3
