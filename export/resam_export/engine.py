"""From an adapted SAM to an engine file: export each graph, set its precision, verify, write the file whole or not."""

from __future__ import annotations

import datetime
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from resam import __version__
from resam.model.bases import Base
from resam.model.prompter import prompter_of
from resam.training.checkpoints import Adapter, describe_base
from resam.training.options import TrainOptions, options_from
from resam_runtime.common.checked import Malformed, take
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.onnx import OnnxBackend
from resam_runtime.engine.class_sizes import ClassSizes
from resam_runtime.engine.engine_file import write_engine_file
from resam_runtime.engine.manifest import DIGEST_KEY, GraphSpec, Manifest
from resam_runtime.engine.precisions import FP32, PRECISIONS, Precision, precision_named
from resam_runtime.engine.prompter_spec import PrompterSpec
from resam_runtime.tiles.tiling import Framing

from .graphs import Graph, build_graphs
from .int8 import quantise
from .models import PROTOBUF_LIMIT, open_session, run_session, to_bytes
from .onnx_export import export_graphs
from .precision import island_names, to_fp16
from .prompted_tiles import Images, PromptedTile, default_count, image_tiles, synthetic_tiles
from .ranges import measure_ranges, too_large
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
    precision: str = FP32.name,
    images: Images | None = None,
    keep_anyway: bool = False,
    scenes: int | None = None,
    sizes: ClassSizes | None = None,
    edges: bool = False,
) -> dict[str, Any]:
    """Write `path` (.resam, ONNX graphs) from a base whose adapter is merged already.

    advance: called with the name of each step. images: a folder, files or arrays, cut into tiles as the engine cuts
    scenes: to calibrate with instead of synthetic scenes, and to verify with beside them. scenes: how many synthetic
    scenes to verify on, by default many for small tiles, two for 1024 px; 0 leaves random inputs and `images`. sizes:
    of the objects of classes, by which the loop then chooses among masks; None: those that the adapter was trained
    with, if any. edges: see `build_graphs`; not together with sizes. What was done is in the result and in the
    manifest: it is what `resam_export.verify` reports.

    Raises `LimitError` naming graph and tensor where a limit is missed, and nothing is written, unless `keep_anyway`:
    then the file is written and its manifest says what is missed.
    """
    chosen = precision_named(precision)
    if edges and chosen.for_gpus:
        raise ResamError(f"--edges is for CPUs, {chosen.option} for GPUs: TensorRT cannot compile it; leave one out")
    check_size(base, chosen)
    sizes = _known_sizes(base, adapter, sizes)
    found = None if prompter_of(base.sam) is None else _found_classes(adapter)
    if edges and sizes is not None:
        raise ResamError("--edges does not go with sizes of classes, which move the edges; leave out --edges")
    options = _options(adapter)
    framing = Framing(options.fit_within or base.fit_within, options.scale)
    size = base.architecture.image_size
    count = default_count(size, chosen) if scenes is None else scenes
    # Images are read before the long work, so that one that cannot be read is said at once.
    own = [] if images is None else list(image_tiles(size, framing, images, max(2, count // 4), VERIFICATION_PHASE))
    calibrate = [] if chosen.exact else list(calibration(size, framing, images))

    graphs = build_graphs(
        base.sam,
        options.tau,
        options.requery,
        options.rounds,
        fold=chosen.for_gpus,
        sized=sizes is not None,
        edges=edges,
    )
    models = export_graphs(graphs, lambda name: advance(f"export: {name}"))
    models, made = set_precision(models, chosen, calibrate, advance)
    for model in models.values():
        onnx.checker.check_model(ir.to_proto(model))
    tiles = itertools.chain(own, synthetic_tiles(size, count))
    verification = verify(graphs, models, chosen, tiles, advance)
    report: dict[str, Any] = plain({"precision": made, **verification.report})
    if verification.misses and not keep_anyway:
        more = f" (and {len(verification.misses) - 1} more)" if len(verification.misses) > 1 else ""
        instead = "report it" if chosen.exact else "choose a higher precision"
        raise LimitError(f"{path}: not written: {verification.misses[0]}{more}; {instead}, or --keep-anyway", report)
    advance("write")
    contents = {name: to_bytes(models[name]) for name in graphs}
    digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents.values())).hexdigest()
    stamp = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key=DIGEST_KEY, value=digest)])
    manifest = _manifest(base, adapter, graphs, chosen, options, framing, report, digest, sizes, found)
    try:
        # protobufs that are joined are merged
        stamped = {name: content + stamp.SerializeToString() for name, content in contents.items()}
        write_engine_file(path, manifest, stamped)
    except OSError as error:
        raise ResamError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    return report


def set_precision(
    models: Mapping[str, ir.Model],
    precision: Precision,
    tiles: Sequence[PromptedTile],
    advance: Callable[[str], None] = lambda step: None,
) -> tuple[dict[str, ir.Model], dict[str, Any]]:
    """fp32 models in another precision, and what was decided for it, as plain data.

    tiles: what to calibrate on.
    """
    if precision.exact:
        return dict(models), {}
    images = list(dict.fromkeys(tile.source for tile in tiles))
    made: dict[str, Any] = {"calibration": {"tiles": len(tiles), "images": images}}
    result, hot = dict(models), {}
    advance("calibration tiles")
    inputs = _inputs(models, tiles)
    if precision.half:
        for name in models:
            advance(f"ranges: {name}")
            hot[name] = too_large(measure_ranges(models[name], inputs[name]))
        made["measured_islands"] = {
            name: sorted(more)
            for name, model in models.items()
            if (more := island_names(model, hot[name]) - island_names(model))
        }
    if precision.quantised:
        made["int8"] = {}
        for name in precision.quantised:
            advance(f"calibrate: {name}")
            # of the loop only what upscales masks: a product made once an image has a row for each of its tokens
            tokens = 0 if name == "encoder" else inputs[name][0]["embedding"][0, 0].size
            quantised = quantise(models[name], inputs[name], tallest=tokens)
            result[name], made["int8"][name] = quantised.model, quantised.report
    return {name: to_fp16(model, hot[name]) if name in hot else model for name, model in result.items()}, made


def calibration(size: int, framing: Framing, images: Images | None = None) -> Iterator[PromptedTile]:
    """The tiles that ranges are measured on: the user's images, else synthetic scenes (not those of verification)."""
    if images is not None:
        yield from image_tiles(size, framing, images, CALIBRATION_TILES, CALIBRATION_PHASE)
    else:
        count = CALIBRATION_TILES if size < 512 else 3
        yield from synthetic_tiles(size, count, CALIBRATION_SEED, prompts=12)


def check_size(base: Base, precision: Precision) -> None:
    """Refuse, before the work starts, a graph whose weights no ONNX file in one piece can hold."""
    count = sum(value.numel() for value in base.sam.image_encoder.parameters())
    size = count * precision.weight_bytes
    if size > PROTOBUF_LIMIT:
        smaller = [other.option for other in PRECISIONS.values() if other.weight_bytes < precision.weight_bytes]
        raise ResamError(
            f"{base.name}: its encoder has {size / 1e9:.1f} GB of weights in {precision.name}, and a graph in an "
            f"engine file may have 2.1 GB (the limit of ONNX's protobuf); export it with {' or '.join(smaller)}"
        )


def _options(adapter: Adapter | None) -> TrainOptions:
    """What an engine keeps of the options its adapter was trained with; those of a bare base are the defaults."""
    given = {} if adapter is None else adapter.provenance.get("options", {})
    return options_from({name: given[name] for name in KEPT_OPTIONS if name in given}, "the adapter")


def _inputs(models: Mapping[str, ir.Model], tiles: Sequence[PromptedTile]) -> dict[str, list[dict[str, Any]]]:
    """What each graph is fed with on the calibration tiles."""
    encoder = open_session(models["encoder"])
    inputs: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    for tile in tiles:
        known = {"image": tile.image, "point_coords": tile.coords, "point_labels": tile.labels}
        known |= run_session(encoder, {"image": tile.image})
        for name, model in models.items():
            inputs[name].append({str(value.name): known[str(value.name)] for value in model.graph.inputs})
    return inputs


def _found_classes(adapter: Adapter | None) -> PrompterSpec:
    """What an adapter says of its prompter. Raises `ResamError` where that is damaged."""
    given = None if adapter is None else adapter.provenance.get("prompter")
    try:
        return take(given, PrompterSpec, "prompter")
    except Malformed as error:
        raise ResamError(f"the adapter does not say what its prompter finds ({error}); train it again") from None


def _known_sizes(base: Base, adapter: Adapter | None, said: ClassSizes | None) -> ClassSizes | None:
    """The sizes that were said, else those that an adapter was trained with; None where its classes had none, or a
    base has no masks to choose from. Raises `ResamError` for sizes said of such a base, and for damaged ones."""
    if base.architecture.multimask_outputs == 0:
        if said is not None:
            raise ResamError(f"{base.name}: has one mask for each prompt, none to choose by size; leave out --size")
        return None
    given = None if adapter is None else adapter.provenance.get("sizes")
    if said is not None or not given or not given.get("areas"):
        return said
    try:
        return take(given, ClassSizes, "sizes")
    except Malformed as error:
        raise ResamError(f"the adapter's sizes are damaged ({error}); train it again") from None


def _manifest(
    base: Base,
    adapter: Adapter | None,
    graphs: Mapping[str, Graph],
    precision: Precision,
    options: TrainOptions,
    framing: Framing,
    report: dict[str, Any],
    digest: str,
    sizes: ClassSizes | None,
    found: PrompterSpec | None,
) -> Manifest:
    a = base.architecture
    return Manifest(
        backend=OnnxBackend.reads,
        precision=precision.name,
        image_size=a.image_size,
        patch_size=a.stride,
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
        upscaling="edges" if graphs["loop"].edges else "whole",
        digest=digest,
        graphs={name: GraphSpec(f"{name}.onnx", "", graph.inputs, graph.outputs) for name, graph in graphs.items()},
        base=describe_base(base),
        adapter=None if adapter is None else {"sha256": adapter.sha256},
        training=None if adapter is None else plain(adapter.provenance),  # a metric of no scenes is NaN
        verification=report,
        prompter=found,
        sizes=sizes,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        resam_version=__version__,
    )
