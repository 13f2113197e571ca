"""For all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from .shared import Shared, traced_once

# Test processes with a thread for every core each would wait for one another all the time. Set before torch loads.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
SHARE = max(1, (os.cpu_count() or 1) // WORKERS)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", str(SHARE))

# What a shell puts into the background ignores Ctrl-C, and so would the commands that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Modules and tests stay to the end: a collection that looks for garbage among them takes a third longer.
gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first in each process's share: one that is left for the end keeps one process busy and the others
    idle. Long are also those that need a loop traced, whichever of them comes first."""
    for item in items:
        if "traced" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    long, short = ([item for item in items if bool(item.get_closest_marker("slow")) == slow] for slow in (True, False))
    items[:] = [item for share in range(WORKERS) for kind in (long, short) for item in _part(kind, share, WORKERS)]


def _part(items: list[pytest.Item], share: int, shares: int) -> list[pytest.Item]:
    """One of as many stretches, each as long as the others."""
    return items[len(items) * share // shares : len(items) * (share + 1) // shares]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole stretches of files for each process, since what a file's tests share is made in each process that runs one
    of them; a process that is done takes over half of what another has left."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session", autouse=True)
def _threads() -> Iterator[None]:
    """Sessions of ONNX Runtime have this process's share of the cores too. Its threads spin while they wait for work:
    with one for each core, most of the time of a run on small scenes was theirs."""
    import onnxruntime

    start = onnxruntime.InferenceSession.__init__

    def limited(session: Any, model: Any, options: Any = None, **more: Any) -> None:
        options = onnxruntime.SessionOptions() if options is None else options
        options.intra_op_num_threads = min(options.intra_op_num_threads or SHARE, SHARE)
        start(session, model, options, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnxruntime.InferenceSession, "__init__", limited)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts() -> Iterator[None]:
    """Files need not outlive a power cut: waiting for the disk takes longer than all else done to small ones."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return Shared.of(tmp_path_factory)


@pytest.fixture(scope="session")
def traces(shared: Shared) -> Iterator[None]:
    """A graph that is exported again is not traced again, in no process of the run: a loop takes a quarter of a
    minute."""
    with traced_once(shared):
        yield
