"""From an adapted SAM to an engine file: export each graph, set its precision, verify, write the file whole or not."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir

from resam import __version__
from resam.model.bases import Base
from resam.training.checkpoints import Adapter, describe_base
from resam_runtime.engine_file import write_engine_file
from resam_runtime.errors import ResamError
from resam_runtime.manifest import GraphSpec, Manifest

from .graphs import Graph, build_graphs
from .int8 import quantise
from .models import PROTOBUF_LIMIT, open_session, run_session, to_bytes
from .onnx_export import export_graphs
from .precision import island_names, to_fp16
from .ranges import measure_ranges, too_large
from .samples import Images, Sample, default_count, image_samples, synthetic_samples
from .verify import verify

Precision = Literal["fp32", "fp16", "int8"]
CALIBRATION_SEED = 7_000_000  # calibration never sees the scenes of verification


def export_engine(
    base: Base,
    adapter: Adapter | None,
    path: Path,
    advance: Callable[[str], None] = lambda step: None,
    *,
    precision: Precision = "fp32",
    images: Images | None = None,
    keep_anyway: bool = False,
    scenes: int | None = None,
) -> dict[str, Any]:
    """Write `path` (.resam, ONNX graphs) from a base whose adapter is merged already.

    advance: called with the name of each step. images: a folder, files or arrays to verify and calibrate with, beside
    the synthetic scenes. scenes: how many synthetic scenes to verify on, by default many for small tiles, two for
    1024 px; 0 leaves random inputs and `images`. What was done is in the result and in the manifest: it is what
    `resam_export.verify` reports.

    Raises `ResamError` naming graph and tensor where a limit is missed, and nothing is written, unless `keep_anyway`:
    then the file is written and its manifest says what is missed.
    """
    check_size(base, precision)
    options: dict[str, Any] = {"tau": 0.3, "requery": "box+points", "rounds": 1, "fit_within": 0, "scale": 1.0}
    if adapter is not None:
        options |= adapter.provenance.get("options", {})
    fold = precision != "fp32"  # fp32 is for CPUs; what goes to a GPU is fp16, or INT8 with the rest in fp16
    graphs = build_graphs(base.sam, options["tau"], options["requery"], options["rounds"], fold=fold)
    size = base.architecture.image_size
    models = export_graphs(graphs, lambda name: advance(f"export: {name}"))
    models, made = set_precision(graphs, models, precision, lambda: calibration(size, images), advance)
    for model in models.values():
        onnx.checker.check_model(ir.to_proto(model))
    count = default_count(size, precision) if scenes is None else scenes
    verification = verify(graphs, models, precision, _samples(size, images, count), advance)
    report = {"precision": made, **verification.report}
    if verification.misses and not keep_anyway:
        more = f" (and {len(verification.misses) - 1} more)" if len(verification.misses) > 1 else ""
        raise ResamError(
            f"{path}: not written: {verification.misses[0]}{more}; choose a higher precision, or --keep-anyway"
        )
    advance("write")
    manifest = _manifest(base, adapter, graphs, precision, options, report)
    write_engine_file(path, manifest, {name: to_bytes(models[name]) for name in graphs})
    return report


def set_precision(
    graphs: Mapping[str, Graph],
    models: Mapping[str, ir.Model],
    precision: Precision,
    samples: Callable[[], Iterator[Sample]],
    advance: Callable[[str], None] = lambda step: None,
) -> tuple[dict[str, ir.Model], dict[str, Any]]:
    """fp32 models in another precision, and what was decided for it, as plain data. What INT8 leaves is fp16.

    samples: gives the calibration samples anew at each call.
    """
    if precision == "fp32":
        return dict(models), {}
    hot: dict[str, frozenset[str]] = {}
    made: dict[str, Any] = {}
    for name, inputs in _inputs(models, samples).items():
        advance(f"ranges: {name}")
        hot[name] = too_large(measure_ranges(models[name], inputs))
    made["measured_islands"] = {
        name: sorted(more)
        for name, model in models.items()
        if (more := island_names(model, hot[name]) - island_names(model))
    }
    sources = dict(models)
    if precision == "int8":
        advance("calibrate: encoder")
        quantised = quantise(models["encoder"], [{"image": sample.image} for sample in samples()])
        sources["encoder"], made["int8"] = quantised.model, quantised.report
    result = {name: to_fp16(model, hot[name]) for name, model in sources.items()}
    return result, made


def calibration(size: int, images: Images | None) -> Iterator[Sample]:
    """The samples that ranges are measured on: the user's images, else synthetic scenes (not those of verification)."""
    count = 16 if size <= 512 else 3
    if images is not None:
        yield from image_samples(size, images, count)
    else:
        yield from synthetic_samples(size, count, CALIBRATION_SEED, prompts=12)


def check_size(base: Base, precision: Precision) -> None:
    """Refuse, before the work starts, a graph whose weights no ONNX file in one piece can hold."""
    width = 4 if precision == "fp32" else 2
    count = sum(value.numel() for value in base.sam.image_encoder.parameters())
    if count * width > PROTOBUF_LIMIT:
        raise ResamError(
            f"{base.name}: its encoder has {count * width / 1e9:.1f} GB of weights in {precision}, and a graph in an "
            "engine file may have 2.1 GB (the limit of ONNX's protobuf); export it with --fp16"
        )


def _samples(size: int, images: Images | None, count: int) -> Iterator[Sample]:
    if images is not None:
        yield from image_samples(size, images, max(2, count // 4))
    yield from synthetic_samples(size, count)


def _inputs(models: Mapping[str, ir.Model], samples: Callable[[], Iterator[Sample]]) -> dict[str, list[dict[str, Any]]]:
    """What each graph is fed with on the calibration samples."""
    encoder = open_session(models["encoder"])
    inputs: dict[str, list[dict[str, Any]]] = {"encoder": [], "loop": []}
    for sample in samples():
        inputs["encoder"].append({"image": sample.image})
        embedding = run_session(encoder, {"image": sample.image})
        inputs["loop"].append({**embedding, "point_coords": sample.coords, "point_labels": sample.labels})
    inputs["decoder"] = inputs["loop"]
    return inputs


def _manifest(
    base: Base,
    adapter: Adapter | None,
    graphs: Mapping[str, Graph],
    precision: Precision,
    options: Mapping[str, Any],
    report: dict[str, Any],
) -> Manifest:
    """options: those of training that the engine keeps: tau, requery, rounds, fit_within (0: the base's own), scale."""
    a = base.architecture
    return Manifest(
        backend="onnx",
        precision=precision,
        image_size=a.image_size,
        patch_size=a.patch_size,
        mask_size=a.mask_size,
        embedding_dim=a.embedding_dim,
        fit_within=options["fit_within"] or base.fit_within,
        scale=options["scale"],
        max_points=None,
        max_points_per_instance=None,
        max_batch=None,
        refine_threshold=options["tau"],
        requery=options["requery"],
        rounds=options["rounds"],
        graphs={name: GraphSpec(f"{name}.onnx", "", graph.inputs, graph.outputs) for name, graph in graphs.items()},
        base=describe_base(base),
        adapter=None if adapter is None else {"sha256": adapter.sha256},
        training=None if adapter is None else adapter.provenance,
        verification=report,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        resam_version=__version__,
    )
