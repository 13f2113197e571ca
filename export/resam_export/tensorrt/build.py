"""An engine file of ONNX graphs to an engine file of TensorRT plans, for the GPU and TensorRT of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import sha256_file
from resam_runtime.common.gpu import GPU, find_gpu
from resam_runtime.engine.backends.onnx import OnnxBackend
from resam_runtime.engine.backends.tensorrt import TensorRTBackend
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.engine.manifest import GraphSpec, Manifest, TensorRTTarget

from .log import BuildLog, trt_logger
from .phases import Phases, trt_monitor
from .profiles import TILES, Limits, profile_shapes
from .timing_cache import TimingCache
from .versions import create_network, import_tensorrt, set_compatibility, version

_LARGEST_MODEL = (1 << 31) - 1  # bytes; TensorRT's parser reads a protobuf, which ends there

# (graph, fraction done in [0, 1], what TensorRT is at)
Report = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Toolchain:
    """What builds plans here: the `tensorrt` module and the GPU they are for."""

    trt: Any
    gpu: GPU

    @classmethod
    def find(cls) -> Toolchain:
        """`NotHereError` where TensorRT or the GPU is missing."""
        return cls(import_tensorrt(), find_gpu())


@dataclass(frozen=True)
class PlanOptions:
    """How plans are built. workspace: bytes of scratch memory at most (None: TensorRT's own limit, all the GPU has);
    timing_cache: a file of kernel timings, read if it is there and written after each graph."""

    limits: Limits = field(default_factory=Limits)
    workspace: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    keep_anyway: bool = False


@dataclass(frozen=True)
class BuiltGraph:
    """What building one graph gave: its layers as parsed, seconds, bytes of its plan, and TensorRT's warnings."""

    layers: int
    seconds: float
    nbytes: int
    warnings: tuple[str, ...]


def build_plan(
    engine: EngineFile,
    output: Path,
    options: PlanOptions,
    toolchain: Toolchain,
    report: Report = lambda graph, fraction, phase: None,
) -> dict[str, BuiltGraph]:
    """Build every graph of `engine` (a .resam) and write them to `output` (a .plan), whole or not at all.

    Precision is that of the graphs. Raises `ResamError`, naming the graph, for what TensorRT refuses, for graphs that
    are not what the manifest describes, and, unless `options.keep_anyway`, for a warning that a layer normalisation
    runs in fp16. Ctrl-C ends the build between two of TensorRT's steps.
    """
    manifest = engine.manifest
    if manifest.backend != OnnxBackend.reads:
        raise ResamError(f"{engine.path}: holds compiled plans; give the .resam file that they were built from")
    limits = _within(engine.path, options.limits, manifest)
    profiles = {name: profile_shapes(name, spec, limits) for name, spec in manifest.graphs.items()}
    built: dict[str, BuiltGraph] = {}
    cache = TimingCache(options.timing_cache)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.stem}.", dir=output.parent) as folder, _interruptible() as stop:
        plans: dict[str, bytes | Path] = {}
        for name, spec in manifest.graphs.items():
            job = _Job(name, spec, profiles[name], options, toolchain.trt)
            plans[name] = path = Path(folder) / f"{name}.plan"
            built[name] = job.build(engine.graph(name), path, cache, report, stop)
        if stop.is_set():
            raise KeyboardInterrupt
        target = TensorRTTarget(
            ".".join(map(str, version(toolchain.trt))),
            toolchain.gpu.compute_capability,
            toolchain.gpu.name,
            options.version_compatible,
            options.hardware_compatible,
        )
        write_engine_file(output, _plan_manifest(engine, limits, target, built), plans)
    return built


class _Job:
    """One graph and how to build it."""

    def __init__(self, name: str, spec: GraphSpec, profile: Mapping[str, Any], options: PlanOptions, trt: Any) -> None:
        self.name, self.spec, self.profile = name, spec, profile
        self.options, self.trt = options, trt
        self.log = BuildLog()

    def build(self, model: bytes, path: Path, cache: TimingCache, report: Report, stop: threading.Event) -> BuiltGraph:
        """Write the plan to `path`; returns what was built."""
        trt, start = self.trt, time.monotonic()
        if len(model) > _LARGEST_MODEL:
            raise ResamError(
                f"graph {self.name}: {len(model)} bytes, TensorRT's parser takes {_LARGEST_MODEL}; export it in fp16"
            )
        logger = trt_logger(trt, self.log)
        try:
            builder = trt.Builder(logger)
        except TypeError:  # how the bindings say that the library gave no builder
            raise self._failed("TensorRT does not start") from None
        network = create_network(trt, builder)
        parser = trt.OnnxParser(network, logger)  # owns the weights: it must outlive the build
        if not parser.parse(model):
            causes = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            self.log.errors[:0] = [" ".join(cause.split())[:200] for cause in causes]
            raise self._failed("TensorRT cannot read the graph")
        self._check_tensors(network)
        config = self._config(builder, network)
        monitor = trt_monitor(trt, Phases(lambda part, phase: report(self.name, part, phase)), stop.is_set)
        config.progress_monitor = monitor
        cache.load(config, self.log)
        layers = int(network.num_layers)
        plan = builder.build_serialized_network(network, config)
        if stop.is_set():
            raise KeyboardInterrupt
        if plan is None:
            raise self._failed("TensorRT could not build it")
        overflow = self.log.overflow_warnings()
        if overflow and not self.options.keep_anyway:
            raise ResamError(
                f"graph {self.name}: TensorRT runs a layer normalisation in fp16 ({overflow[0]}); its masks may be "
                "wrong: export the .resam again with this resam, or keep it with --keep-anyway"
            )
        nbytes = int(plan.nbytes)
        path.write_bytes(plan)
        cache.save(config)
        return BuiltGraph(layers, time.monotonic() - start, nbytes, tuple(self.log.warnings))

    def _config(self, builder: Any, network: Any) -> Any:
        trt, config = self.trt, builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            profile.set_shape(tensor.name, *self.profile[tensor.name])
        if config.add_optimization_profile(profile) < 0:
            raise self._failed("TensorRT refuses the range of shapes")
        if self.options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.options.workspace)
        refused = set_compatibility(trt, config, self.options.version_compatible, self.options.hardware_compatible)
        if refused:
            raise ResamError(f"TensorRT {trt.__version__} does not have {' and '.join(refused)} here; leave it out")
        return config

    def _check_tensors(self, network: Any) -> None:
        """The parsed graph has the inputs and outputs that the manifest promises to the runtime."""
        trt = self.trt
        sides = (
            (self.spec.inputs, [network.get_input(i) for i in range(network.num_inputs)]),
            (self.spec.outputs, [network.get_output(i) for i in range(network.num_outputs)]),
        )
        for specs, tensors in sides:
            wanted = [
                (spec.name, spec.dtype, tuple(-1 if isinstance(n, str) else n for n in spec.shape)) for spec in specs
            ]
            found = [(t.name, _dtype(trt, t), tuple(int(n) for n in t.shape)) for t in tensors]
            if sorted(wanted) != sorted(found):
                missed = sorted(set(wanted) - set(found)) or wanted
                raise ResamError(
                    f"graph {self.name} is not what its manifest describes (expected {missed[0]}, TensorRT reads "
                    f"{found}); export the .resam again"
                )

    def _failed(self, what: str) -> ResamError:
        advice = ""
        if any("memory" in line.lower() for line in self.log.errors):
            advice = "; give it more memory (--workspace), or lower --max-points"
        return ResamError(f"graph {self.name}: {what} ({self.log.reason()}){advice}")


def _dtype(trt: Any, tensor: Any) -> str:
    """The numpy name of a tensor's type; TensorRT's own for types that numpy does not have."""
    try:
        return np.dtype(trt.nptype(tensor.dtype)).name
    except TypeError:
        return str(tensor.dtype)


def _within(path: Path, limits: Limits, manifest: Manifest) -> Limits:
    """The limits, no wider than what the .resam was made for."""
    pairs = (
        ("max_points", manifest.max_points),
        ("max_points_per_instance", manifest.max_points_per_instance),
    )
    for name, most in pairs:
        asked = getattr(limits, name)
        if most is not None and asked > most:
            limits = dataclasses.replace(limits, **{name: most})
    return limits


def _plan_manifest(
    engine: EngineFile, limits: Limits, target: TensorRTTarget, built: Mapping[str, BuiltGraph]
) -> Manifest:
    specs = {
        name: GraphSpec(f"{name}.plan", "", spec.inputs, spec.outputs) for name, spec in engine.manifest.graphs.items()
    }
    source = {"file": engine.path.name, "sha256": sha256_file(engine.path), "created": engine.manifest.created}
    return dataclasses.replace(
        engine.manifest,
        backend=TensorRTBackend.reads,
        graphs=specs,
        max_points=limits.max_points,
        max_points_per_instance=limits.max_points_per_instance,
        max_batch=TILES,
        verification={
            **engine.manifest.verification,
            "plan": {"source": source, "graphs": {name: _described(graph) for name, graph in built.items()}},
        },
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        tensorrt=target,
    )


def _described(graph: BuiltGraph) -> dict[str, Any]:
    return {
        "layers": graph.layers,
        "seconds": round(graph.seconds, 1),
        "bytes": graph.nbytes,
        "warnings": list(graph.warnings[:20]),
    }


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that TensorRT can be told to stop; an exception must not cross its threads."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
