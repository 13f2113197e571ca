"""The precision of a plan is that of the graphs it is built from; this says what to do where another is asked for."""

from __future__ import annotations

from pathlib import Path

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.precisions import PRECISIONS, Precision


def check_precision(engine: EngineFile, asked: Precision | None, output: Path) -> Precision:
    """The precision that plans of `engine` have; `ResamError` where `asked` is another.

    Nothing is converted on the device: which operations stay in float32 and how INT8 is scaled is worked out against
    torch, and checked against it, where the .resam is written.
    """
    held = PRECISIONS[engine.manifest.precision]
    if asked is None or asked == held:
        return held
    raise ResamError(
        f"{engine.path}: holds {held.name} graphs, and a plan has the precision of its graphs; for {asked.name} run "
        f"where torch is: resam-export ADAPTER {asked.option} -o {engine.path.name}, then here: "
        f"resam-export {engine.path.name} {asked.option} -o {output.name}"
    )
