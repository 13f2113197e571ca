"""The CPU of this machine: its name, and those of its instructions that decide how fast a precision is there."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

# As the Linux kernel calls them -> as people do.
_X86 = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "avx512_bf16": "BF16",
        "amx_int8": "AMX INT8", "amx_bf16": "AMX BF16"}  # fmt: skip
_ARM = {"asimd": "NEON", "asimdhp": "FP16", "asimddp": "DotProd", "i8mm": "I8MM", "bf16": "BF16"}
_FAST_INT8 = {"VNNI", "AMX INT8", "DotProd", "I8MM"}  # four products of bytes and their sum in one instruction
_FAST_BF16 = {"BF16", "AMX BF16"}


@dataclass(frozen=True)
class Cpu:
    """instructions: of those known here, what this CPU has; None where the system does not tell (other than Linux)."""

    name: str
    instructions: tuple[str, ...] | None = None

    @property
    def slow_int8(self) -> bool:
        """Whether it is known to have no instruction that sums products of bytes."""
        return self.instructions is not None and not _FAST_INT8 & set(self.instructions)

    @property
    def fast_bf16(self) -> bool:
        """Whether it is known to multiply in bfloat16."""
        return bool(_FAST_BF16 & set(self.instructions or ()))

    @property
    def fast_fp16(self) -> bool:
        """Whether it is known to compute in float16."""
        return "FP16" in (self.instructions or ())


@functools.cache
def find_cpu() -> Cpu:
    """The CPU of this machine."""
    try:
        return parse_cpu(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        return Cpu(platform.processor() or platform.machine())


def parse_cpu(text: str) -> Cpu:
    """The first CPU of a `/proc/cpuinfo`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    known = _ARM if "Features" in fields else _X86
    names = tuple(dict.fromkeys(name for flag, name in known.items() if flag in flags))
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    return Cpu(name, names if flags else None)
