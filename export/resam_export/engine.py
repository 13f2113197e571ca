"""From an adapted SAM to an engine file: export each graph, set its precision, verify, write the file whole or not."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from resam import __version__
from resam.model.bases import Base
from resam.training.checkpoints import Adapter, describe_base
from resam.training.options import TrainOptions, options_from
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import write_engine_file
from resam_runtime.engine.manifest import GraphSpec, Manifest, Precision
from resam_runtime.tiles.tiling import Framing

from .graphs import Graph, build_graphs
from .int8 import quantise
from .models import PROTOBUF_LIMIT, open_session, run_session, to_bytes
from .onnx_export import export_graphs
from .precision import island_names, to_fp16
from .ranges import measure_ranges, too_large
from .samples import Images, Sample, default_count, image_samples, synthetic_samples
from .verify import plain, verify

KEPT_OPTIONS = ("tau", "requery", "rounds", "fit_within", "scale")
CALIBRATION_TILES = 16
CALIBRATION_SEED = 7_000_000  # calibration never sees the scenes of verification, nor, where it can, the same tiles of
CALIBRATION_PHASE, VERIFICATION_PHASE = 0.25, 0.75  # the user's images


class LimitError(ResamError):
    """A limit of verification is missed and nothing was written. report: as `export_engine` would have returned it."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report


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

    advance: called with the name of each step. images: a folder, files or arrays, cut into tiles as the engine cuts
    scenes: to calibrate with instead of synthetic scenes, and to verify with beside them. scenes: how many synthetic
    scenes to verify on, by default many for small tiles, two for 1024 px; 0 leaves random inputs and `images`. What was
    done is in the result and in the manifest: it is what `resam_export.verify` reports.

    Raises `LimitError` naming graph and tensor where a limit is missed, and nothing is written, unless `keep_anyway`:
    then the file is written and its manifest says what is missed.
    """
    check_size(base, precision)
    options = _options(adapter)
    framing = Framing(options.fit_within or base.fit_within, options.scale)
    size = base.architecture.image_size
    count = default_count(size, precision) if scenes is None else scenes
    # Images are read before the long work, so that one that cannot be read is said at once.
    own = [] if images is None else list(image_samples(size, framing, images, max(2, count // 4), VERIFICATION_PHASE))
    calibrate = [] if precision == "fp32" else list(calibration(size, framing, images))

    fold = not precision.endswith("fp32")  # which is for CPUs
    graphs = build_graphs(base.sam, options.tau, options.requery, options.rounds, fold=fold)
    models = export_graphs(graphs, lambda name: advance(f"export: {name}"))
    models, made = set_precision(models, precision, calibrate, advance)
    for model in models.values():
        onnx.checker.check_model(ir.to_proto(model))
    samples = itertools.chain(own, synthetic_samples(size, count))
    verification = verify(graphs, models, precision, samples, advance)
    report: dict[str, Any] = plain({"precision": made, **verification.report})
    if verification.misses and not keep_anyway:
        more = f" (and {len(verification.misses) - 1} more)" if len(verification.misses) > 1 else ""
        instead = "report it" if precision == "fp32" else "choose a higher precision"
        raise LimitError(f"{path}: not written: {verification.misses[0]}{more}; {instead}, or --keep-anyway", report)
    advance("write")
    manifest = _manifest(base, adapter, graphs, precision, options, framing, report)
    try:
        write_engine_file(path, manifest, {name: to_bytes(models[name]) for name in graphs})
    except OSError as error:
        raise ResamError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    return report


def set_precision(
    models: Mapping[str, ir.Model],
    precision: Precision,
    samples: Sequence[Sample],
    advance: Callable[[str], None] = lambda step: None,
) -> tuple[dict[str, ir.Model], dict[str, Any]]:
    """fp32 models in another precision, and what was decided for it, as plain data.

    samples: what to calibrate on.
    """
    if precision == "fp32":
        return dict(models), {}
    images = list(dict.fromkeys(sample.source for sample in samples))
    made: dict[str, Any] = {"calibration": {"tiles": len(samples), "images": images}}
    result, hot = dict(models), {}
    advance("calibration tiles")
    inputs = _inputs(models, samples)
    if not precision.endswith("fp32"):
        for name in models:
            advance(f"ranges: {name}")
            hot[name] = too_large(measure_ranges(models[name], inputs[name]))
        made["measured_islands"] = {
            name: sorted(more)
            for name, model in models.items()
            if (more := island_names(model, hot[name]) - island_names(model))
        }
    if precision.startswith("int8"):
        made["int8"] = {}
        for name in ("encoder",) if precision == "int8" else models:
            advance(f"calibrate: {name}")
            # of the loop only what upscales masks: a product made once an image has a row for each of its tokens
            tokens = 0 if name == "encoder" else inputs[name][0]["embedding"][0, 0].size
            quantised = quantise(models[name], inputs[name], tallest=tokens)
            result[name], made["int8"][name] = quantised.model, quantised.report
    return {name: to_fp16(model, hot[name]) if name in hot else model for name, model in result.items()}, made


def calibration(size: int, framing: Framing, images: Images | None = None) -> Iterator[Sample]:
    """The samples that ranges are measured on: the user's images, else synthetic scenes (not those of verification)."""
    if images is not None:
        yield from image_samples(size, framing, images, CALIBRATION_TILES, CALIBRATION_PHASE)
    else:
        count = CALIBRATION_TILES if size <= 512 else 3
        yield from synthetic_samples(size, count, CALIBRATION_SEED, prompts=12)


def check_size(base: Base, precision: Precision) -> None:
    """Refuse, before the work starts, a graph whose weights no ONNX file in one piece can hold."""
    width = 4 if precision == "fp32" else 2  # enough for INT8 with what is not a product in fp32
    count = sum(value.numel() for value in base.sam.image_encoder.parameters())
    if count * width > PROTOBUF_LIMIT:
        raise ResamError(
            f"{base.name}: its encoder has {count * width / 1e9:.1f} GB of weights in {precision}, and a graph in an "
            "engine file may have 2.1 GB (the limit of ONNX's protobuf); export it with --fp16, or --int8-fp32"
        )


def _options(adapter: Adapter | None) -> TrainOptions:
    """What an engine keeps of the options its adapter was trained with; those of a bare base are the defaults."""
    given = {} if adapter is None else adapter.provenance.get("options", {})
    return options_from({name: given[name] for name in KEPT_OPTIONS if name in given}, "the adapter")


def _inputs(models: Mapping[str, ir.Model], samples: Sequence[Sample]) -> dict[str, list[dict[str, Any]]]:
    """What each graph is fed with on the calibration samples."""
    encoder = open_session(models["encoder"])
    inputs: dict[str, list[dict[str, Any]]] = {"encoder": [], "loop": []}
    for sample in samples:
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
    options: TrainOptions,
    framing: Framing,
    report: dict[str, Any],
) -> Manifest:
    a = base.architecture
    return Manifest(
        backend="onnx",
        precision=precision,
        image_size=a.image_size,
        patch_size=a.patch_size,
        mask_size=a.mask_size,
        embedding_dim=a.embedding_dim,
        fit_within=framing.fit_within,
        scale=framing.scale,
        max_points=None,
        max_points_per_instance=None,
        max_batch=None,
        refine_threshold=options.tau,
        requery=options.requery,
        rounds=options.rounds,
        graphs={name: GraphSpec(f"{name}.onnx", "", graph.inputs, graph.outputs) for name, graph in graphs.items()},
        base=describe_base(base),
        adapter=None if adapter is None else {"sha256": adapter.sha256},
        training=None if adapter is None else plain(adapter.provenance),  # a metric of no scenes is NaN
        verification=report,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        resam_version=__version__,
    )
