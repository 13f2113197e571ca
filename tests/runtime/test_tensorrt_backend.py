"""The TensorRT backend as far as it goes without a GPU: what it refuses, what it plans, and, on a simulated
device, what it copies, runs and records in which order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from resam_runtime import Segmenter
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends import load_backend
from resam_runtime.engine.backends.plan import TensorRecord, check_target, input_sizes, plan_buffers
from resam_runtime.engine.backends.tensorrt import TensorRTBackend
from resam_runtime.engine.engine_file import EngineFile, write_engine_file
from resam_runtime.engine.manifest import GraphSpec, TensorRTTarget, TensorSpec

from .cuda_drivers import Gpu, left_over, over_cuda_python, over_pycuda
from .engines import engine_graphs, engine_manifest, write_engine

TARGET = TensorRTTarget("10.3.0", "8.7", "Orin")

# The tensors of a ViT-B loop at 1024 px, as a TensorRT engine lists them for --max-points 64.
LOOP_RECORDS = [
    TensorRecord("embedding", True, "float16", (1, 256, 64, 64), (1, 256, 64, 64)),
    TensorRecord("point_coords", True, "float32", (-1, -1, 2), (64, 8, 2)),
    TensorRecord("point_labels", True, "int32", (-1, -1), (64, 8)),
    TensorRecord("masks", False, "float32", (-1, 256, 256)),
    TensorRecord("scores", False, "float32", (-1,)),
    TensorRecord("boxes", False, "float32", (-1, 4)),
    TensorRecord("coarse_masks", False, "float32", (-1, 256, 256)),
    TensorRecord("coarse_scores", False, "float32", (-1,)),
]
LOOP_SPEC = GraphSpec(
    "loop.plan",
    "0" * 64,
    (
        TensorSpec("embedding", "float16", (1, 256, 64, 64)),
        TensorSpec("point_coords", "float32", ("N", "P", 2)),
        TensorSpec("point_labels", "int32", ("N", "P")),
    ),
    (
        TensorSpec("masks", "float32", ("N", 256, 256)),
        TensorSpec("scores", "float32", ("N",)),
        TensorSpec("boxes", "float32", ("N", 4)),
        TensorSpec("coarse_masks", "float32", ("N", 256, 256)),
        TensorSpec("coarse_scores", "float32", ("N",)),
    ),
)
PLAN = Path("model.plan")


def test_buffers_hold_the_largest_shapes() -> None:
    buffers = plan_buffers(PLAN, "loop", LOOP_RECORDS, LOOP_SPEC)
    assert {name: buffer.nbytes for name, buffer in buffers.items()} == {
        "embedding": 256 * 64 * 64 * 2,
        "point_coords": 64 * 8 * 2 * 4,
        "point_labels": 64 * 8 * 4,
        "masks": 64 * 256 * 256 * 4,
        "scores": 64 * 4,
        "boxes": 64 * 4 * 4,
        "coarse_masks": 64 * 256 * 256 * 4,
        "coarse_scores": 64 * 4,
    }
    assert buffers["masks"].shape({"N": 3, "P": 2}) == (3, 256, 256)
    assert buffers["embedding"].shape({"N": 3, "P": 2}) == (1, 256, 64, 64)


def test_inputs_that_share_a_dimension_bound_it_together() -> None:
    records = [
        dataclasses.replace(record, maximum=(32, 8)) if record.name == "point_labels" else record
        for record in LOOP_RECORDS
    ]
    assert plan_buffers(PLAN, "loop", records, LOOP_SPEC)["masks"].maximum == (32, 256, 256)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("masks", {"dtype": "float16"}),
        ("masks", {"shape": (-1, 128, 128)}),
        ("masks", {"shape": (-1, 256)}),
        ("masks", {"is_input": True}),
        ("masks", {"name": "mask"}),
        ("point_coords", {"maximum": None}),
        ("embedding", {"is_input": False}),
    ],
)
def test_an_engine_that_is_not_the_manifests_is_refused(name: str, change: dict[str, Any]) -> None:
    records = [dataclasses.replace(r, **change) if r.name == name else r for r in LOOP_RECORDS]
    with pytest.raises(ResamError, match="graph loop is not what its manifest describes"):
        plan_buffers(PLAN, "loop", records, LOOP_SPEC)


def test_an_output_dimension_that_no_input_gives_is_refused() -> None:
    outputs = tuple(
        dataclasses.replace(tensor, shape=("K",)) if tensor.name == "scores" else tensor for tensor in LOOP_SPEC.outputs
    )
    with pytest.raises(ResamError, match="dimension K"):
        plan_buffers(PLAN, "loop", LOOP_RECORDS, dataclasses.replace(LOOP_SPEC, outputs=outputs))


def test_shapes_within_the_plan_are_taken_and_others_refused() -> None:
    buffers = plan_buffers(PLAN, "loop", LOOP_RECORDS, LOOP_SPEC)
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (1, 256, 64, 64),
        "point_coords": (5, 3, 2),
        "point_labels": (5, 3),
    }
    assert input_sizes("loop", buffers, shapes) == {"N": 5, "P": 3}
    for change, reason in (
        ({"point_coords": (65, 3, 2)}, "N from 1 to 64"),
        ({"point_coords": (0, 3, 2)}, "N from 1 to 64"),
        ({"point_labels": (4, 3)}, "disagrees"),
        ({"point_coords": (5, 3, 3)}, "takes shapes like"),
        ({"point_coords": (5, 3)}, "dimensions"),
        ({"extra": (1,)}, "takes embedding"),
    ):
        with pytest.raises(ResamError, match=reason):
            input_sizes("loop", buffers, {**shapes, **change})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "version", "capability", "runs"),
    [
        ({}, "10.3.0", "8.7", True),
        ({}, "10.3.0.30", "8.7", True),
        ({}, "10.3.1", "8.7", False),
        ({}, "10.4.0", "8.7", False),
        ({}, "11.0.0", "8.7", False),
        ({"version_compatible": True}, "10.4.0", "8.7", True),
        ({"version_compatible": True}, "10.2.0", "8.7", False),
        ({"version_compatible": True}, "11.0.0", "8.7", False),
        ({}, "10.3.0", "8.6", False),
        ({"hardware_compatible": True}, "10.3.0", "9.0", True),
        ({"hardware_compatible": True}, "10.3.0", "12.0", True),
        ({"hardware_compatible": True}, "10.3.0", "7.5", False),
        ({"hardware_compatible": True, "compute_capability": "7.5"}, "10.3.0", "8.7", False),
    ],
)
def test_a_plan_runs_where_it_was_built_for(change: dict[str, Any], version: str, capability: str, runs: bool) -> None:
    target = dataclasses.replace(TARGET, **change)
    if runs:
        check_target(PLAN, target, "fp16", version, capability, "Orin Nano")
        return
    with pytest.raises(ResamError) as caught:
        check_target(PLAN, target, "fp16", version, capability, "Orin Nano")
    message = str(caught.value)
    assert message.startswith("model.plan: built for")
    assert message.endswith("resam-export MODEL.resam --fp16 -o model.plan")
    assert version in message or capability in message


class SimulatedDevice:
    """A `Device` whose memory is host memory. It keeps a diary, and refuses what a real one would crash on."""

    name = "Simulated GPU"
    compute_capability = "8.7"
    stream = 7

    def __init__(self, records: bool = True) -> None:
        self.diary: list[str] = []
        self.allocations: dict[int, np.ndarray] = {}
        self.recording = False
        self._records = records
        self._next = 4096
        self._depth = 0
        self._owner: int | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        assert self._owner in (None, threading.get_ident()), "two threads at once"
        self._owner, self._depth = threading.get_ident(), self._depth + 1
        yield
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def allocate(self, nbytes: int) -> int:
        assert self._depth
        pointer, self._next = self._next, self._next + nbytes + 256
        self.allocations[pointer] = np.zeros(nbytes, np.uint8)
        return pointer

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.zeros(nbytes, np.uint8)

    def upload(self, target: int, source: np.ndarray) -> None:
        assert self._depth
        assert not self.recording
        self.diary.append("upload")
        self.allocations[target][: source.size] = source

    def download(self, target: np.ndarray, source: int) -> None:
        assert not self.recording
        self.diary.append("download")
        target[:] = self.allocations[source][: target.size]

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.diary.append("copy")
        self.allocations[target][:nbytes] = self.allocations[source][:nbytes]

    def synchronize(self) -> None:
        self.diary.append("synchronize")

    def capture(self, enqueue: Callable[[], bool]) -> Any:
        self.diary.append("capture")
        self.recording = True
        replay = enqueue() and self._last
        self.recording = False
        return replay if self._records else None

    def launch(self, recording: Callable[[], None]) -> None:
        self.diary.append("launch")
        recording()

    def enqueue(self, work: Callable[[], None]) -> None:
        if self.recording:
            self._last = work
        else:
            self.diary.append("enqueue")
            work()


class SimulatedContext:
    """An execution context: shapes and addresses in, ONNX Runtime's results written to the addresses."""

    def __init__(self, plan: SimulatedPlan) -> None:
        self.plan, self.shapes, self.addresses, self.scratch = plan, {}, {}, None  # type: ignore[var-annotated]

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert size >= self.plan.device_memory_size_v2
        self.scratch = pointer

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self.addresses[name] = pointer

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        device = self.plan.device
        assert stream == device.stream
        assert self.scratch is not None
        if self.plan.fails:
            self.plan.logger.log(self.plan.trt.ILogger.Severity.ERROR, "enqueue:\nout of memory")
            return False
        shapes = dict(self.shapes)

        def work() -> None:
            feeds = {}
            for tensor in self.plan.session.get_inputs():
                dtype = self.plan.dtypes[tensor.name]
                count = int(np.prod(shapes[tensor.name])) * dtype.itemsize
                data = device.allocations[self.addresses[tensor.name]][:count]
                feeds[tensor.name] = data.view(dtype).reshape(shapes[tensor.name])
            names = [tensor.name for tensor in self.plan.session.get_outputs()]
            for name, value in zip(names, self.plan.session.run(names, feeds)):
                raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
                device.allocations[self.addresses[name]][: raw.size] = raw

        device.enqueue(work)
        return True


class SimulatedPlan:
    """A deserialised engine: it describes its tensors as TensorRT does, and makes contexts."""

    device_memory_size_v2 = 1000
    fails = False

    def __init__(self, trt: Any, logger: Any, device: SimulatedDevice, graph: bytes, most: dict[str, int]) -> None:
        self.trt, self.logger, self.device, self.most = trt, logger, device, most
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}
        self.tensors = {**self.inputs, **{tensor.name: tensor for tensor in self.session.get_outputs()}}
        kinds = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
        self.dtypes = {name: np.dtype(kinds[tensor.type]) for name, tensor in self.tensors.items()}
        self.contexts: list[SimulatedContext] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, i: int) -> str:
        return list(self.tensors)[i]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> Any:
        words = {"float32": "FLOAT", "int32": "INT32", "uint8": "UINT8"}
        return SimpleNamespace(name=words[self.dtypes[name].name])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        most = tuple(self.most.get(size, size) for size in self.tensors[name].shape)
        return [tuple(1 for _ in most), most, most]

    def create_execution_context(self, strategy: str) -> SimulatedContext:
        assert strategy == "user managed"
        self.contexts.append(SimulatedContext(self))
        return self.contexts[-1]


class Simulation:
    """A TensorRT module and a device, to be injected into `TensorRTBackend.load`."""

    def __init__(self, version: str = "10.3.0", records: bool = True, device: Any = None) -> None:
        self.device = device or SimulatedDevice(records)
        self.plans: list[SimulatedPlan] = []
        self.refuses = False
        simulation = self

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger
                self.engine_host_code_allowed = False
                simulation.runtime = self

            def deserialize_cuda_engine(self, graph: memoryview) -> Any:
                if simulation.refuses:
                    self.logger.log(1, "Serialization assertion\nfailed")
                    return None
                most = {"N": 8, "P": 4, "B": 1}
                plan = SimulatedPlan(simulation.tensorrt, self.logger, simulation.device, bytes(graph), most)
                simulation.plans.append(plan)
                return plan

        self.runtime: Any = None
        self.tensorrt: Any = SimpleNamespace(
            __version__=version,
            ILogger=type(
                "ILogger", (), {"Severity": SimpleNamespace(ERROR=1, INTERNAL_ERROR=0), "__init__": lambda self: None}
            ),
            Runtime=Runtime,
            TensorIOMode=SimpleNamespace(INPUT="input"),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        )

    def load(self, engine: EngineFile, device: str | None = None) -> TensorRTBackend:
        return TensorRTBackend.load(engine, device, tensorrt=self.tensorrt, gpu=self.device)


@pytest.fixture
def plan(tmp_path: Path) -> EngineFile:
    """An engine file that claims to hold plans; the simulation reads its graphs as ONNX."""
    path = tmp_path / "model.plan"
    manifest = engine_manifest(backend="tensorrt", tensorrt=TARGET, max_points=8, max_points_per_instance=4)
    write_engine_file(path, manifest, engine_graphs(by_value=True, radius=9.0))
    return EngineFile.open(path)


def prompts(seed: int, count: int, points: int = 1) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    return {
        "point_coords": chance.uniform(0, 63, (count, points, 2)).astype(np.float32),
        "point_labels": np.ones((count, points), np.int32),
    }


def encoded(backend: TensorRTBackend, seed: int) -> Any:
    image = np.random.default_rng(seed).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    return backend.run("encoder", {"image": image}, ["embedding"], keep=True)[0]


def test_results_equal_onnx_runtimes_for_changing_shapes_and_images(plan: EngineFile, tmp_path: Path) -> None:
    write_engine(tmp_path / "model.resam", by_value=True, radius=9.0)
    onnx = Segmenter(tmp_path / "model.resam", device="cpu", threads=1)
    backend, reference = Simulation().load(plan), onnx.backend
    chance = np.random.default_rng(0)
    for turn in range(40):
        image = chance.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
        inputs = prompts(turn, int(chance.integers(1, 4)), int(chance.integers(1, 3)))
        graph = "loop" if turn % 3 else "decoder"
        results = []
        for each in (backend, reference):
            (embedding,) = each.run("encoder", {"image": image}, ["embedding"], keep=True)
            results.append(each.run(graph, {"embedding": embedding, **inputs}, ["masks", "scores"]))
        for got, wanted in zip(*results):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("opens", [over_cuda_python, over_pycuda])
def test_both_packages_devices_run_record_and_free_as_the_simulated_one(opens: Any, plan: EngineFile) -> None:
    gpu = Gpu()
    device = opens(gpu)
    device.name, device.allocations, device.enqueue, device.diary = "Orin", gpu.allocations, gpu.enqueue, gpu.diary
    simulations = [Simulation(device=device), Simulation()]
    backends = [simulation.load(plan) for simulation in simulations]
    for turn in range(12):
        results = []
        for backend in backends:
            inputs = {"embedding": encoded(backend, turn), **prompts(turn, 1 + turn % 2)}
            results.append(backend.run("loop", inputs, ["masks", "scores"]))
            inputs.clear()
        for got, wanted in zip(*results):
            np.testing.assert_array_equal(got, wanted)
    assert gpu.diary == simulations[1].device.diary
    assert "launch" in gpu.diary
    assert gpu.depth == 0
    with device.active():
        del backends, backend, results, got, simulations
        assert left_over(gpu) == (0, 0, 0)


def test_an_embedding_outlives_the_next_image(plan: EngineFile) -> None:
    backend, inputs = Simulation().load(plan), prompts(1, 2)
    first = encoded(backend, 1)
    (before,) = backend.run("loop", {"embedding": first, **inputs}, ["masks"])
    second = encoded(backend, 2)
    (other,) = backend.run("loop", {"embedding": second, **inputs}, ["masks"])
    (after,) = backend.run("loop", {"embedding": first, **inputs}, ["masks"])
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(before, other)


def test_the_embedding_never_leaves_the_device(plan: EngineFile) -> None:
    simulation = Simulation()
    backend = simulation.load(plan)
    embedding = encoded(backend, 1)
    assert simulation.device.diary == ["upload", "enqueue", "copy", "synchronize"]
    simulation.device.diary.clear()
    backend.run("loop", {"embedding": embedding, **prompts(0, 3)}, ["scores"])
    assert simulation.device.diary == ["copy", "upload", "upload", "enqueue", "download", "synchronize"]


def test_memory_is_allocated_once_and_embeddings_are_pooled(plan: EngineFile) -> None:
    simulation = Simulation()
    backend = simulation.load(plan)
    embedding = encoded(backend, 0)
    allocated = len(simulation.device.allocations)
    for seed in range(6):
        backend.run("loop", {"embedding": embedding, **prompts(seed, 1 + seed)}, ["masks", "boxes"])
        embedding = None  # the last reference: its memory may serve the next one
        embedding = encoded(backend, seed)
    assert embedding is not None
    assert len(simulation.device.allocations) == allocated


def test_memory_of_dead_embeddings_is_freed_where_the_device_is_active(plan: EngineFile) -> None:
    freed: list[bool] = []  # of each allocation freed: whether it truly was

    class Pointer(int):
        def __del__(self) -> None:
            freed.append(simulation.device._owner == threading.get_ident())

    simulation = Simulation()
    allocate = simulation.device.allocate
    simulation.device.allocate = lambda nbytes: Pointer(allocate(nbytes))  # type: ignore[method-assign]
    backend = simulation.load(plan)
    many = [encoded(backend, seed) for seed in range(10)]
    dropped = threading.Thread(target=many.clear)
    dropped.start()
    dropped.join()
    assert freed == [], "its memory would be lost here"
    encoded(backend, 0)
    assert freed == [True] * 6, "four are kept for the next embeddings"


def test_a_shape_that_comes_back_is_recorded_and_replayed(plan: EngineFile) -> None:
    simulation = Simulation()
    backend, embedding = simulation.load(plan), None
    embedding = encoded(backend, 0)

    def how(count: int) -> list[str]:
        simulation.device.diary.clear()
        backend.run("loop", {"embedding": embedding, **prompts(count, count)}, ["scores"])
        return [word for word in simulation.device.diary if word in ("enqueue", "capture", "launch")]

    assert [how(3), how(2), how(3), how(2), how(3), how(2), how(3)] == [
        ["enqueue"],
        ["enqueue"],
        ["enqueue"],
        ["enqueue"],
        ["capture", "launch"],
        ["capture", "launch"],
        ["launch"],
    ]


def test_a_recorded_context_serves_one_shape_only_and_their_number_is_bounded(plan: EngineFile) -> None:
    simulation = Simulation()
    backend = simulation.load(plan)
    embedding = encoded(backend, 0)
    for points in (1, 2, 3):
        for count in range(1, 9):
            for _ in range(4):
                backend.run("loop", {"embedding": embedding, **prompts(0, count, points)}, ["scores"])
    graph = backend._graphs["loop"]
    assert len(graph._own) == 8
    loops = next(p for p in simulation.plans if "boxes" in p.tensors)
    assert len({context.scratch for p in simulation.plans for context in p.contexts}) == 1
    assert len(loops.contexts) == 1 + 24


def test_where_nothing_can_be_recorded_it_still_runs(plan: EngineFile) -> None:
    simulation = Simulation(records=False)
    backend = simulation.load(plan)
    embedding = encoded(backend, 0)
    results = [backend.run("loop", {"embedding": embedding, **prompts(0, 3)}, ["masks"])[0] for _ in range(5)]
    assert simulation.device.diary.count("capture") == 1
    assert "launch" not in simulation.device.diary
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_results_are_the_callers_own(plan: EngineFile) -> None:
    backend = Simulation().load(plan)
    embedding = encoded(backend, 0)
    (first,) = backend.run("loop", {"embedding": embedding, **prompts(0, 3)}, ["masks"])
    kept = first.copy()
    backend.run("loop", {"embedding": embedding, **prompts(1, 3)}, ["masks"])
    np.testing.assert_array_equal(first, kept)


def test_threads_take_turns(plan: EngineFile) -> None:
    backend = Simulation().load(plan)
    embedding = encoded(backend, 0)
    expected = {
        seed: backend.run("loop", {"embedding": embedding, **prompts(seed, 3)}, ["masks"])[0] for seed in range(4)
    }
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(10):
            (masks,) = backend.run("loop", {"embedding": embedding, **prompts(seed, 3)}, ["masks"])
            if not np.array_equal(masks, expected[seed]):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_the_description_names_version_device_and_precision(plan: EngineFile) -> None:
    line = Simulation().load(plan, "cuda:0").describe()
    assert line == "TensorRT 10.3.0, Simulated GPU (compute capability 8.7), fp32"


def test_a_failing_run_gives_tensorrts_reason_on_one_line(plan: EngineFile) -> None:
    simulation = Simulation()
    backend = simulation.load(plan)
    for each in simulation.plans:
        each.fails = True
    with pytest.raises(ResamError, match="graph encoder: TensorRT failed: enqueue: out of memory"):
        encoded(backend, 0)


def test_wrong_dtypes_and_too_many_points_are_refused(plan: EngineFile) -> None:
    backend = Simulation().load(plan)
    with pytest.raises(ResamError, match="image takes uint8"):
        backend.run("encoder", {"image": np.zeros((1, 64, 64, 3), np.float32)}, ["embedding"])
    with pytest.raises(ResamError, match="N from 1 to 8"):
        backend.run("loop", {"embedding": encoded(backend, 0), **prompts(0, 9)}, ["masks"])


def test_another_version_or_device_is_refused_before_anything_is_loaded(plan: EngineFile) -> None:
    simulation = Simulation(version="11.4.0")
    with pytest.raises(ResamError, match=r"built for TensorRT 10\.3\.0, here is 11\.4\.0"):
        simulation.load(plan)
    assert simulation.runtime is None
    simulation = Simulation()
    simulation.device.compute_capability = "9.0"
    with pytest.raises(ResamError, match=r"built for Orin .*8\.7.*, here is Simulated GPU \(9\.0\)"):
        simulation.load(plan)


def test_a_plan_that_tensorrt_refuses_names_graph_and_reason(plan: EngineFile) -> None:
    simulation = Simulation()
    simulation.refuses = True
    with pytest.raises(ResamError, match=r"cannot load plan encoder .Serialization assertion failed.; build it here"):
        simulation.load(plan)


def test_version_compatible_plans_may_bring_their_code(tmp_path: Path) -> None:
    for compatible in (True, False):
        path = tmp_path / f"{compatible}.plan"
        target = dataclasses.replace(TARGET, version_compatible=compatible)
        write_engine_file(path, engine_manifest(backend="tensorrt", tensorrt=target), engine_graphs())
        simulation = Simulation()
        simulation.load(EngineFile.open(path))
        assert simulation.runtime.engine_host_code_allowed is compatible


def test_only_cuda_runs_plans(plan: EngineFile) -> None:
    for device in ("cpu", "tensorrt-ep", "cuda:x"):
        with pytest.raises(ResamError, match="runs on cuda"):
            Simulation().load(plan, device)


def test_missing_libraries_say_what_to_install(plan: EngineFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ResamError, match=r"TensorRT cannot be imported .*python3-libnvinfer"):
        load_backend(plan)
    monkeypatch.setitem(sys.modules, "tensorrt", Simulation().tensorrt)
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResamError, match="needs cuda-python or pycuda"):
        load_backend(plan)


def test_the_segmenter_runs_plans_as_it_runs_graphs(
    plan: EngineFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Simulation()
    monkeypatch.setitem(sys.modules, "tensorrt", simulation.tensorrt)
    monkeypatch.setattr("resam_runtime.engine.backends.tensorrt.open_device", lambda path, number: simulation.device)
    write_engine(tmp_path / "model.resam", by_value=True, radius=9.0)
    image = np.random.default_rng(0).integers(0, 256, (150, 100, 3), dtype=np.uint8)
    points = np.random.default_rng(1).uniform(0, 99, (40, 2))
    ours, reference = (
        each(image, points) for each in (Segmenter(plan), Segmenter(tmp_path / "model.resam", device="cpu", threads=1))
    )
    assert [item.box.tolist() for item in ours] == [item.box.tolist() for item in reference]
