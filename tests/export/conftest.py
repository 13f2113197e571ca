"""The tiny base, traced once for all tests: tracing takes most of an export's time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import pytest

from resam.model.bases import Base, load_base
from resam_export.graphs import Graph, build_graphs
from resam_export.onnx_export import export_graphs


@dataclass(frozen=True)
class Traced:
    """A base, its graphs in torch, and their fp32 models. Clone a model before changing it."""

    base: Base
    graphs: Mapping[str, Graph]
    models: Mapping[str, ir.Model]


@pytest.fixture(scope="session", autouse=True)
def _traces(traces: None) -> None:
    pass


@pytest.fixture(scope="session")
def traced() -> Traced:
    base = load_base("tiny")
    graphs = build_graphs(base.sam)
    return Traced(base, graphs, export_graphs(graphs))
