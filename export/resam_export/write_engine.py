"""From an adapter, a base or the newest run to a .resam, as the command does it. torch is imported late."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from resam_runtime.common.errors import ResamError
from resam_runtime.common.extras import needs_extra
from resam_runtime.engine.class_sizes import ClassSizes
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.precisions import Precision

from .inspect import print_verification
from .progress import print_written, step_progress

RUNS = Path("runs")


def write_engine(
    source: Path | None,
    base: str | None,
    output: Path,
    precision: Precision,
    images: Path | None,
    keep_anyway: bool,
    console: Console,
    plan: Path | None = None,
    sizes: Sequence[str] = (),
    edges: bool = False,
) -> None:
    """Write a .resam from an adapter, a bare base, or (neither given) the newest run; print what its check found.

    plan: what was asked for, where it was not `output`: then no .resam of another engine is replaced. sizes: of the
    objects of classes, as `resam-train --size` takes them. edges: see `export_engine`.
    """
    if source is None and base is None:
        source = newest_run()
        console.print(f"adapter {source}", markup=False, highlight=False)
    with needs_extra(str(output), "train,export", ", or give a .resam file"):
        from resam.model.bases import load_base
        from resam.training.checkpoints import load_adapted
        from resam.training.sizes import said_areas

        from .engine import LimitError, export_engine
    known = None
    if sizes:
        unit, areas = said_areas(",".join(sizes))
        known = ClassSizes(f"{unit}2", areas)
    adapter = None
    if source is not None:
        loaded, adapter = load_adapted(source, base)
    else:
        loaded = load_base(base or "tiny")
    if plan is not None:
        _check_beside(plan, output, precision.name, edges, loaded.sha256, None if adapter is None else adapter.sha256)
    if precision.quantised and images is None:
        note = "note    INT8 is calibrated on synthetic scenes; pass --images with a folder of your own"
        console.print(note, markup=False, highlight=False)
    try:
        with step_progress() as show:
            report = export_engine(
                loaded,
                adapter,
                output,
                lambda step: show(step, None, ""),
                precision=precision.name,
                images=images,
                keep_anyway=keep_anyway,
                edges=edges,
                sizes=known,
            )
    except LimitError as error:  # what was measured, before the one line that says what is missed
        print_verification(error.report, console)
        raise
    print_verification(report, console)
    print_written(output, console)


def _check_beside(plan: Path, path: Path, precision: str, edges: bool, base: str, adapter: str | None) -> None:
    """`ResamError` where a plan's .resam would replace one that it is not. base, adapter: their SHA-256."""
    if not os.path.exists(path):
        return
    instead = "choose another name for the plan, or move that file away"
    try:
        there = EngineFile.open(path, verify=False).manifest
    except ResamError as error:
        raise ResamError(f"{plan}: its .resam would replace what lies beside it ({error}); {instead}") from None
    parts = {
        "adapter": ((there.adapter or {}).get("sha256"), adapter),
        "base": (there.base.get("sha256"), base),
        "precision": (there.precision, precision),
        "upscaling": (there.upscaling, "edges" if edges else "whole"),
    }
    other = next((name for name, (old, new) in parts.items() if old != new), None)
    if other is not None:
        raise ResamError(f"{plan}: its .resam would replace {path}, which is of another {other}; {instead}")


def newest_run() -> Path:
    """The adapter that was written last under runs/."""
    found = sorted(RUNS.glob("*/adapter.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ResamError("no adapter given and none under runs/; run resam-train, or give --base tiny")
    return found[-1]
