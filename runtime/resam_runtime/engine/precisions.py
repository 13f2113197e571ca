"""Precisions: what the numbers in an engine's graphs are. A new one is an entry of `PRECISIONS`.

Plain data, which every part reads: the command line for its options, the exporter for what it converts, its
verification for what must be kept to, the runtime and the benchmarks for what to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resam_runtime.common.cpu import Cpu
from resam_runtime.common.errors import ResamError


@dataclass(frozen=True)
class Tolerances:
    """What verification holds a precision to, against torch in fp32.

    encoder: relative error of the embedding. prompted: of every tensor of the other graphs, given torch's embedding (so
    that INT8 in the encoder alone leaves them fp16's); of those before Refine alone where numbers are rounded.
    iou: mean IoU of masks with torch's, at least. drop: how much lower the mean IoU with the true masks may be.
    """

    encoder: float
    prompted: float
    iou: float
    drop: float


@dataclass(frozen=True)
class Precision:
    """name: in manifests, and as an option of resam-export. title: in tables and on pages. help: the option's.

    quantised: graphs whose products with constant matrices become INT8 where they are accurate enough. rest: the type
    of all else. for_gpus: attention in the form that fused kernels of GPUs take (else the one that suits CPUs).
    checked_on: synthetic tiles to verify on, where tiles are small.
    """

    name: str
    title: str
    help: str
    tolerances: Tolerances
    checked_on: int = 40
    quantised: tuple[str, ...] = ()
    rest: Literal["float32", "float16"] = "float32"
    for_gpus: bool = False

    @property
    def option(self) -> str:
        """As it is typed: "--int8-fp32"."""
        return f"--{self.name}"

    @property
    def half(self) -> bool:
        """Whether what is not INT8 is float16, with float32 where that matters."""
        return self.rest == "float16"

    @property
    def exact(self) -> bool:
        """Whether no number is rounded more than torch's own: nothing to calibrate, the same masks."""
        return not self.quantised and not self.half

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight, at most: 4 or 2 (INT8 is 1, and what stays float32 beside it is little)."""
        return 4 if self.exact else 2

    def doubt(self, cpu: Cpu) -> str:
        """Why it does not suit a CPU, and what would; empty where nothing is known against it."""
        if self.for_gpus and not cpu.fast_fp16:
            others = " or ".join(other.option for other in PRECISIONS.values() if not other.for_gpus)
            return f"no faster than fp32 on this CPU; for speed, export with {others}"
        if self.quantised and cpu.slow_int8:
            return "no VNNI on this CPU: INT8 may be no faster than fp32; compare them with resam-bench"
        return ""


FP32 = Precision("fp32", "fp32", "All of it in float32", Tolerances(1e-5, 1e-5, 0.999, 0.0005), checked_on=4)
FP16 = Precision(
    "fp16",
    "fp16",
    "float16, with float32 where it matters",
    Tolerances(1e-2, 1e-2, 0.99, 0.002),
    rest="float16",
    for_gpus=True,
)
INT8 = Precision(
    "int8",
    "INT8 and fp16",
    "The encoder in INT8 where accurate enough, calibrated on --images, the rest in float16: for GPUs",
    Tolerances(0.25, 1e-2, 0.90, 0.01),
    quantised=("encoder",),
    rest="float16",
    for_gpus=True,
)
INT8_FP32 = Precision(
    "int8-fp32",
    "INT8",
    "The same plus mask upscaling in INT8, the rest in float32: for CPUs",
    Tolerances(0.25, 0.1, 0.90, 0.01),
    quantised=("encoder", "decoder", "loop"),
)

PRECISIONS = {precision.name: precision for precision in (FP32, FP16, INT8, INT8_FP32)}


def precision_named(name: str) -> Precision:
    """The precision of a name; `ResamError` for what is none."""
    if name not in PRECISIONS:
        raise ResamError(f"precision {name!r}: expected one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
