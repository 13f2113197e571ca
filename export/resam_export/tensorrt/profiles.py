"""The range of shapes that a plan serves: an optimization profile's least, usual and largest shape of each input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.manifest import GraphSpec

Shape = tuple[int, ...]
TILES = 1  # encoded in one call: as many as the runtime sends
LARGEST_TENSOR = (1 << 31) - 1  # elements; TensorRT indexes a tensor with 32 bits


@dataclass(frozen=True)
class Limits:
    """The most that a plan takes in one call: instances N, points per instance P."""

    max_points: int = 64
    max_points_per_instance: int = 8

    def sizes(self) -> dict[str, tuple[int, int, int]]:
        """Least, usual and largest size of each dynamic dimension; kernels are chosen for the usual one.

        Instances: a quarter of the most, for the last batch of a tile is seldom full. Points: one, the prompt that
        the method is named for.
        """
        return {
            "N": (1, -(-self.max_points // 4), self.max_points),
            "P": (1, 1, self.max_points_per_instance),
            "B": (TILES, TILES, TILES),
        }


def profile_shapes(graph: str, spec: GraphSpec, limits: Limits) -> Mapping[str, tuple[Shape, Shape, Shape]]:
    """Least, usual and largest shape of each input of a graph.

    Raises `ResamError` for a dynamic dimension other than N, P and B, and where an input or output at its largest
    would have 2^31 elements or more.
    """
    sizes = limits.sizes()
    ranges: dict[str, tuple[Shape, Shape, Shape]] = {}
    for tensor in (*spec.inputs, *spec.outputs):
        unknown = [size for size in tensor.shape if isinstance(size, str) and size not in sizes]
        if unknown:
            raise ResamError(
                f"graph {graph}: {tensor.name} has the dynamic dimension {unknown[0]}; expected {', '.join(sizes)}"
            )
        least, usual, largest = (
            tuple(sizes[size][which] if isinstance(size, str) else size for size in tensor.shape) for which in range(3)
        )
        elements = 1
        for size in largest:
            elements *= size
        if elements > LARGEST_TENSOR:
            raise ResamError(
                f"graph {graph}: {tensor.name} would have {elements} elements, TensorRT takes {LARGEST_TENSOR}; "
                "lower --max-points"
            )
        if tensor in spec.inputs:
            ranges[tensor.name] = (least, usual, largest)
    return ranges
