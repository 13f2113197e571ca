"""What the TensorRT backend decides before it touches a device: whether a plan suits it, and its buffers.

Pure functions of plain data, so that they are tested without a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.manifest import GraphSpec, TensorRTTarget


@dataclass(frozen=True)
class TensorRecord:
    """One tensor as an engine describes it: -1 in `shape` is dynamic; `maximum` is the profile's (inputs only)."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    maximum: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Buffer:
    """Memory for one tensor at its largest shape. dims: the name of each dynamic dimension, None if it is fixed."""

    name: str
    is_input: bool
    dtype: str
    maximum: tuple[int, ...]
    dims: tuple[str | None, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.maximum) * np.dtype(self.dtype).itemsize

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape when the dynamic dimensions have these sizes."""
        return tuple(most if dim is None else sizes[dim] for most, dim in zip(self.maximum, self.dims))


def check_target(
    path: Path, target: TensorRTTarget, precision: str, version: str, capability: str, device_name: str
) -> None:
    """Refuse a plan that was built for another TensorRT or another GPU; say how to build one for this one.

    A plan runs on the version that built it (the same first three numbers), or, built version-compatible, on that or a
    later one with the same first number; and on the compute capability that built it, or, built hardware-compatible,
    on any GPU from 8.0 on.
    """
    mend = f"build it here: resam-export MODEL.resam --{precision} -o {path.name}"
    built, here = _numbers(target.version), _numbers(version)
    if target.version_compatible:
        good = built[0] == here[0] and built[:3] <= here[:3]
        how = f"TensorRT {target.version} or a later {built[0]}.x"
    else:
        good, how = built[:3] == here[:3], f"TensorRT {target.version}"
    if not good:
        raise ResamError(f"{path}: built for {how}, here is {version}; {mend}")
    made_for, present = _numbers(target.compute_capability), _numbers(capability)
    widely = target.hardware_compatible and made_for >= (8, 0) and present >= (8, 0)
    if made_for != present and not widely:
        raise ResamError(
            f"{path}: built for {target.device_name} (compute capability {target.compute_capability}), here is "
            f"{device_name} ({capability}); {mend}"
        )


def plan_buffers(path: Path, graph: str, records: Sequence[TensorRecord], spec: GraphSpec) -> dict[str, Buffer]:
    """One buffer per tensor of a graph, at its largest shape.

    The profile gives the inputs' largest shapes and so the most that N, P and B can be (the least, where several
    inputs share a name); an output's dynamic dimensions have the names of the manifest. Raises `ResamError` where the
    engine's tensors are not those the manifest describes.
    """
    described = {tensor.name: (tensor, True) for tensor in spec.inputs}
    described.update({tensor.name: (tensor, False) for tensor in spec.outputs})
    wrong = f"{path}: graph {graph} is not what its manifest describes"
    found = {record.name for record in records}
    if found != set(described):
        raise ResamError(f"{wrong} (tensors {', '.join(sorted(found))}); export the engine again")
    most: dict[str, int] = {}
    for record in records:
        tensor, is_input = described[record.name]
        fits = (
            record.is_input == is_input
            and record.dtype == tensor.dtype
            and len(record.shape) == len(tensor.shape)
            and all(isinstance(want, str) or size in (want, -1) for size, want in zip(record.shape, tensor.shape))
        )
        if not fits:
            raise ResamError(
                f"{wrong} ({record.name} is {record.dtype} {record.shape}, expected {tensor.dtype} {tensor.shape}); "
                "export the engine again"
            )
        if is_input:
            if record.maximum is None or len(record.maximum) != len(record.shape):
                raise ResamError(f"{wrong} ({record.name} has no profile); export the engine again")
            for size, want in zip(record.maximum, tensor.shape):
                if isinstance(want, str):
                    most[want] = min(size, most.get(want, size))
    buffers = {}
    for record in records:
        tensor, is_input = described[record.name]
        unknown = [dim for dim in tensor.shape if isinstance(dim, str) and dim not in most]
        if unknown:
            raise ResamError(f"{wrong} ({record.name} has a dimension {unknown[0]} that no input gives)")
        maximum = tuple(most[dim] if isinstance(dim, str) else dim for dim in tensor.shape)
        dims = tuple(dim if isinstance(dim, str) else None for dim in tensor.shape)
        buffers[record.name] = Buffer(record.name, is_input, record.dtype, maximum, dims)
    return buffers


def input_sizes(graph: str, buffers: Mapping[str, Buffer], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes of the dynamic dimensions that these input shapes give; `ResamError` where they do not fit."""
    sizes: dict[str, int] = {}
    inputs = {name for name, buffer in buffers.items() if buffer.is_input}
    if set(shapes) != inputs:
        raise ResamError(f"graph {graph}: takes {', '.join(sorted(inputs))}, got {', '.join(sorted(shapes))}")
    for name, shape in shapes.items():
        buffer = buffers[name]
        if len(shape) != len(buffer.maximum):
            raise ResamError(f"graph {graph}: {name} takes {len(buffer.maximum)} dimensions, got {shape}")
        for size, most, dim in zip(shape, buffer.maximum, buffer.dims):
            if dim is None and size != most:
                raise ResamError(f"graph {graph}: {name} takes shapes like {buffer.maximum}, got {shape}")
            if dim is not None and not 1 <= size <= most:
                raise ResamError(f"graph {graph}: {name} of shape {shape}: the plan takes {dim} from 1 to {most}")
            if dim is not None and sizes.setdefault(dim, size) != size:
                raise ResamError(f"graph {graph}: {name} of shape {shape} disagrees with the other inputs on {dim}")
    return sizes


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
