"""What `resam-doctor` says, line by line."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from resam_runtime.common.cpu import Cpu
from resam_runtime.doctor.components import COMPONENTS, Component, Found
from resam_runtime.engine.backends.onnx import physical_cores
from resam_runtime.engine.precisions import PRECISIONS


def report(cpu: Cpu) -> Iterator[str]:
    """The machine; each part with its version, or with what it would give and the command that brings it; and which
    precisions of an engine suit the machine."""
    yield f"resam {importlib.metadata.version('resam')}, Python {platform.python_version()}, {platform.platform()}"
    yield f"CPU: {cpu.name}, {_cores(physical_cores())}, {_instructions(cpu)}"
    yield ""
    found = [(part, part.find()) for part in COMPONENTS]
    width = max(len(part.name) for part in COMPONENTS)
    for part, state in found:
        yield from _lines(part, state, width)
    yield ""
    yield from _precisions(cpu, any(part.name == "NVIDIA GPU" and state.works for part, state in found), width)


def _lines(part: Component, state: Found, width: int) -> Iterator[str]:
    if state.works:
        yield f"  yes  {part.name:{width}}  {part.gives}: {state.detail}"
    else:
        yield f"  no   {part.name:{width}}  would give: {part.gives} ({state.detail})"
        yield f"       {'':{width}}  {part.command}"


def _precisions(cpu: Cpu, gpu: bool, width: int) -> Iterator[str]:
    for precision in PRECISIONS.values():
        doubt = "" if precision.for_gpus and gpu else precision.doubt(cpu)
        yield f"  {'no ' if doubt else 'yes'}  {precision.option:{width}}  {doubt or 'suits this machine'}"
    bf16 = "suits this machine" if cpu.fast_bf16 or gpu else "no BF16 in this CPU: resam-train takes fp32 by itself"
    yield f"  {'yes' if cpu.fast_bf16 or gpu else 'no '}  {'training in bf16':{width}}  {bf16}"


def _instructions(cpu: Cpu) -> str:
    if cpu.instructions is None:
        return "instructions unknown on this system"
    return "with " + (", ".join(cpu.instructions) or "none of the instructions that count")


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count != 1)}"
