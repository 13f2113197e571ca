"""Products as rows times a matrix, convolutions among them: which rows of a value are looked at. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .models import constant

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """Of a convolution: height and width, (rows, columns) of each step, and zeros before and after each axis."""

    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right

    @classmethod
    def of(cls, node: ir.Node) -> Kernel:
        weight = constant(node.inputs[1])
        assert weight is not None
        size, (height, width) = weight.shape[2:], node.attributes.get_ints("strides", [1, 1])
        top, left, bottom, right = node.attributes.get_ints("pads", [0, 0, 0, 0])
        return cls((size[0], size[1]), (height, width), (top, left, bottom, right))

    def rows(self, value: Array, most: int) -> tuple[Array, int]:
        """At most about `most` of what the kernel sees in (B, C, H, W), each (kh * kw * C,), and how many there are."""
        top, left, bottom, right = self.pads
        seen = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = np.lib.stride_tricks.sliding_window_view(seen, self.size, axis=(2, 3))
        windows = windows[:, :, :: self.strides[0], :: self.strides[1]].transpose(0, 2, 3, 4, 5, 1)
        count = int(np.prod(windows.shape[:3]))
        # the middle pixel's largest channel stands for the row
        middle = windows[:, :, :, self.size[0] // 2, self.size[1] // 2]
        chosen = spread_and_peaks(np.abs(middle).max(axis=-1).ravel(), most)
        return windows[np.unravel_index(chosen, windows.shape[:3])].reshape(len(chosen), -1), count


def spread_and_peaks(largest: Array, most: int) -> NDArray[np.intp]:
    """Numbers of `most` rows, evenly spread, and of those with the largest entries: these decide a range. largest: that
    of each row."""
    peaks = np.argsort(largest)[-most // 8 :]
    spread = np.linspace(0, len(largest) - 1, min(most, len(largest))).round().astype(int)
    return np.unique(np.concatenate((spread, peaks)))


def matrix_of(weight: Array) -> Array:
    """A product's weight (K, N); of a kernel (N, C, kh, kw) with K = kh * kw * C."""
    return weight if weight.ndim == 2 else weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
