"""From an adapted SAM to an engine file: export each graph, verify it, write the file whole or not at all."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from resam import __version__
from resam.model.bases import Base
from resam.training.checkpoints import Adapter, describe_base
from resam_runtime.engine_file import write_engine_file
from resam_runtime.errors import ResamError
from resam_runtime.manifest import GraphSpec, Manifest

from .graphs import Graph, build_graphs
from .onnx_export import export_graph

FP32_LIMIT = 1e-4  # largest error relative to the largest value of a tensor, float32 against torch


def export_engine(
    base: Base, adapter: Adapter | None, path: Path, advance: Callable[[str], None] = lambda graph: None
) -> dict[str, float]:
    """Write `path` (.resam, float32 ONNX graphs) from a base whose adapter is merged already.

    Returns the relative error of each graph's outputs against torch. Raises `ResamError` naming graph and tensor where
    one exceeds `FP32_LIMIT`; nothing is written then.
    """
    options: dict[str, Any] = adapter.provenance.get("options", {}) if adapter is not None else {}
    tau, requery, rounds = options.get("tau", 0.3), options.get("requery", "box+points"), options.get("rounds", 1)
    graphs: dict[str, bytes | Path] = {}
    specs: dict[str, GraphSpec] = {}
    errors: dict[str, float] = {}
    for name, graph in build_graphs(base.sam, tau, requery, rounds).items():
        advance(name)
        model = export_graph(graph)
        onnx.checker.check_model(model)
        data = model.SerializeToString()
        errors |= verify(graph, data)
        graphs[name] = data
        specs[name] = GraphSpec(f"{name}.onnx", "", graph.inputs, graph.outputs)
    a = base.architecture
    manifest = Manifest(
        backend="onnx",
        precision="fp32",
        image_size=a.image_size,
        patch_size=a.patch_size,
        mask_size=a.mask_size,
        embedding_dim=a.embedding_dim,
        fit_within=options.get("fit_within") or base.fit_within,
        max_points=None,
        max_points_per_instance=None,
        max_batch=None,
        refine_threshold=tau,
        requery=requery,
        rounds=rounds,
        graphs=specs,
        base=describe_base(base),
        adapter=None if adapter is None else {"sha256": adapter.sha256},
        training=None if adapter is None else adapter.provenance,
        verification={"relative_error": errors},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        resam_version=__version__,
    )
    write_engine_file(path, manifest, graphs)
    return errors


def verify(graph: Graph, data: bytes, seed: int = 0) -> dict[str, float]:
    """Run one ONNX graph in ONNX Runtime and its torch reference on the same random inputs.

    Returns {"graph.tensor": largest difference / largest value}; raises `ResamError` past `FP32_LIMIT`.
    """
    import onnxruntime

    inputs = _random_inputs(graph, np.random.default_rng(seed))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    got = session.run([spec.name for spec in graph.outputs], inputs)
    with torch.no_grad():
        wanted = graph.reference(*(torch.from_numpy(inputs[spec.name]) for spec in graph.inputs))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    errors = {}
    for spec, mine, theirs in zip(graph.outputs, got, wanted, strict=True):
        reference = theirs.numpy()
        error = float(np.abs(mine - reference).max() / max(1e-6, float(np.abs(reference).max())))
        errors[f"{graph.name}.{spec.name}"] = error
        if not error <= FP32_LIMIT:
            raise ResamError(
                f"{graph.name}: {spec.name} differs from torch by {error:.1e} of its range, limit {FP32_LIMIT:.0e}"
            )
    return errors


def _random_inputs(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    sizes = {"B": 2, "N": 3, "P": 2}
    inputs: dict[str, np.ndarray] = {}
    for spec in graph.inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        if spec.name == "image":
            inputs[spec.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif spec.name == "point_labels":
            inputs[spec.name] = np.array([[1, 0], [1, -1], [1, 1]], np.int32)
        elif spec.name == "point_coords":
            inputs[spec.name] = rng.uniform(0, 200, shape).astype(np.float32)
        else:
            inputs[spec.name] = rng.standard_normal(shape).astype(np.float32)
    return inputs
