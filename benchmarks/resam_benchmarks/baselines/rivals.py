"""From names on a command line to rivals: engine files, and baselines with the weights of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings
from resam_benchmarks.baselines.table import BASELINES
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.cases import Rival
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import sha256_file
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import Manifest
from resam_runtime.engine.precisions import FP32


def engine_rivals(
    paths: Sequence[Path], device: str | None = None, threads: int | None = None, views: int = 1
) -> list[Rival]:
    """One rival per engine file, named by the file, and by as many of its folders as tell it from the others.

    views: above 1, each engine a second time, its masks averaged over so many views of a tile.
    """
    for place, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:place]]:
            raise ResamError(f"{path}: the same engine file is given twice; give each once")
    rivals = []
    for path, name in zip(paths, _names(paths)):
        manifest = EngineFile.open(path).manifest
        about: dict[str, Any] = {
            "kind": "engine",
            "backend": manifest.backend,
            "precision": manifest.precision,
            "base": dict(manifest.base),
            "adapter": None if manifest.adapter is None else dict(manifest.adapter),
            "automatic": True,
        }
        options = {"path": str(path), "device": device, "threads": threads}
        factory = "resam_benchmarks.measure.engine_contender:EngineContender"
        rivals.append(Rival(name, factory, options, path.stat().st_size, about))
        if views > 1:
            options = {**options, "views": views}
            about = {**about, "views": views}
            rivals.append(Rival(f"{name}, {views} views", factory, options, path.stat().st_size, about))
    return rivals


def _names(paths: Sequence[Path]) -> list[str]:
    """Names that differ, and are no baseline's: the files' stems, else their names, else names with folders."""
    parts = [path.absolute().parts for path in paths]
    tried = [[path.stem for path in paths]]
    tried += [["/".join(own[-depth:]) for own in parts] for depth in range(1, max(map(len, parts), default=0) + 1)]
    names = next(
        names for names in tried if len(set(names)) == len(names) and not set(names) & set(BASELINES)
    ) if paths else []  # fmt: skip
    # a name with bytes that are no UTF-8 could be neither printed nor written
    return [name.encode("utf-8", "replace").decode() for name in names]


def loop_settings(manifest: Manifest) -> LoopSettings:
    """Refine and Requery as an engine has them."""
    from resam.model.refine_requery import refine_logit

    tau = manifest.refine_threshold
    return LoopSettings(tau, refine_logit(tau), manifest.requery, manifest.rounds)


def weights_of(engine: Path, base: str | None, adapter: Path | None) -> Weights:
    """The weights that an engine was exported from: its manifest names them, `base` and `adapter` say where they lie.

    Raises `ResamError` where a file is needed and not given, given and not needed, or not the one that the manifest
    names.
    """
    from resam.model.bases import TINY_WEIGHTS

    manifest = EngineFile.open(engine).manifest
    named = manifest.base["name"]
    if base is None:
        if named != "tiny":
            raise ResamError(f"{engine}: made from the base {named}; say where it is with --base-weights FILE")
        base = "tiny"
    file = TINY_WEIGHTS if base == "tiny" else Path(base)
    _check_digest(file, manifest.base.get("sha256"), f"{engine} was made from another base")
    if manifest.adapter is None:
        if adapter is not None:
            raise ResamError(f"{engine}: made without an adapter; leave out --adapter")
        return Weights(base=base)
    if adapter is None:
        raise ResamError(f"{engine}: made with an adapter; say where it is with --adapter FILE")
    _check_digest(adapter, manifest.adapter.get("sha256"), f"{engine} was made with another adapter")
    return Weights(base=base, adapter=str(adapter))


def _check_digest(path: Path, wanted: object, problem: str) -> None:
    if not path.is_file():
        raise ResamError(f"{path}: no such file")
    if wanted and sha256_file(path) != wanted:
        raise ResamError(f"{path}: {problem} (SHA-256 differs); give that one")


def baseline_rivals(
    names: Sequence[str],
    weights: Weights,
    manifest: Manifest,
    folder: Path,
    device: str | None = None,
    threads: int | None = None,
) -> list[Rival]:
    """Baselines by name, all with the same weights, and the loop and the tiles of the engine with this manifest.

    folder: for files that they need while they run.
    """
    shared = {"settings": loop_settings(manifest), "device": device, "threads": threads}
    framed = {"size": manifest.image_size, "framing": manifest.framing}

    about = {"kind": "baseline", "precision": FP32.name, **weights.describe()}
    rivals = []
    for name in dict.fromkeys(names):
        if name not in BASELINES:
            raise ResamError(f"--baseline {name}: expected one of {', '.join(BASELINES)}")
        baseline = BASELINES[name]
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        prepared = baseline.prepare(weights, own)
        tiled = {"factory": baseline.factory, "options": {**prepared.options, **shared}, **framed}
        factory = "resam_benchmarks.baselines.tiled:Tiled"
        rivals.append(Rival(baseline.name, factory, tiled, prepared.size_bytes, about))
    return rivals
