"""What differs between TensorRT 10.3 and 11, in one place; everything else calls what both have.

* Networks are typed by their graph alone: a creation flag in 10, the only way in 11 (where `BuilderFlag.FP16`, INT8 and
  calibrators are gone, and the flag is obsolete). So precision is decided in the ONNX graph, for both.
* Explicit batch is the only way in both, and INT8 is explicit (QuantizeLinear / DequantizeLinear in the graph).
* 10.3, of JetPack 6, is the oldest that is supported.
"""

from __future__ import annotations

import re
from typing import Any

from resam_runtime.common.errors import one_line
from resam_runtime.common.gpu import NotHereError

OLDEST = (10, 3)


def import_tensorrt() -> Any:
    """The `tensorrt` module. `NotHereError` where it is absent, broken or too old."""
    try:
        import tensorrt
    except (ImportError, OSError, RuntimeError) as error:  # absent, or its libraries are; versions differ in the type
        raise NotHereError(
            f"TensorRT cannot be imported ({one_line(error)}; JetPack: apt install python3-libnvinfer, elsewhere: "
            "pip install 'resam[tensorrt]')"
        ) from None
    if version(tensorrt)[:2] < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise NotHereError(f"TensorRT {tensorrt.__version__} is here, {wanted} or later is needed")
    return tensorrt


def version(trt: Any) -> tuple[int, ...]:
    """(10, 3, 0) of "10.3.0", and of "10.3.0.post1"."""
    numbers = re.match(r"\d+(\.\d+)*", str(trt.__version__))
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def create_network(trt: Any, builder: Any) -> Any:
    """An empty network that keeps the types of its graph."""
    flags = 0
    if version(trt)[0] < 11:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return builder.create_network(flags)


def set_compatibility(trt: Any, config: Any, versions: bool, hardware: bool) -> list[str]:
    """Ask for plans that later versions (of the same first number) or other GPUs load; names what was not granted."""
    refused = []
    if versions:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if not config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE):
            refused.append("--version-compatible")
    if hardware:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if config.hardware_compatibility_level != trt.HardwareCompatibilityLevel.AMPERE_PLUS:
            refused.append("--hardware-compatible")
    return refused
