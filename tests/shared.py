"""What tests make once for all processes of a run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    import onnx_ir as ir
    import pytest

    from resam_export.graphs import Graph


class Shared:
    """A folder that all processes of a test run have in common, gone with the run's other temporary files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @classmethod
    def of(cls, factory: pytest.TempPathFactory) -> Shared:
        base = factory.getbasetemp()  # with pytest-xdist one for each process, in the one of the run
        return cls((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared")

    def path(self, name: str, make: Callable[[Path], object]) -> Path:
        """`name` in the folder: a file or a folder that `make(path)` writes where no process has yet. Read only."""
        path, partial = self.folder / name, self.folder / f"partial-{name}"
        with open(self.folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                shutil.rmtree(partial, ignore_errors=True)  # of a test that failed
                make(partial)
                partial.rename(path)
        return path


@contextlib.contextmanager
def traced_once(shared: Shared) -> Iterator[None]:
    """Where this process exports a graph that another has exported, it takes what was traced there.

    Graphs are the same where their modules, settings and weights are.
    """
    import onnx
    import onnx_ir as ir

    from resam_export import onnx_export
    from resam_export.models import to_bytes

    trace = onnx_export.export_graph

    def once(graph: Graph) -> ir.Model:
        name = f"{onnx_export.fingerprint(graph)}.onnx"
        path = shared.path(name, lambda path: path.write_bytes(to_bytes(trace(graph))))
        return ir.from_proto(onnx.ModelProto.FromString(path.read_bytes()))

    with mock.patch.object(onnx_export, "export_graph", once):
        yield
