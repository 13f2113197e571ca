"""Processes that are copies of one which has imported what most of them need: for tests of many starts.

There is one such server in each test process, so all tests name the same imports.
"""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch", "torchvision", "onnxruntime", "resam_runtime.run.run", "tests.runtime.run_helpers", "tests.without"]
)
