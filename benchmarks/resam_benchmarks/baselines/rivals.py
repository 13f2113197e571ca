"""From names on a command line to rivals: engine files, and baselines with the weights of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.cases import Rival
from resam_benchmarks.measure.worker import Worker
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import sha256_file
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import Manifest

BASELINES = ("segment-anything", "onnx-per-prompt", "torch")


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
        about = {
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

    Raises `ResamError` where a file is needed and not given, given and not needed, or not the one that the manifest names.
    """
    from resam.model.bases import TINY_WEIGHTS

    manifest = EngineFile.open(engine).manifest
    named = manifest.base["name"]
    if base is None:
        if named != "tiny":
            raise ResamError(f"{engine}: made from the base {named}; say where it lies with --base-weights FILE")
        base = "tiny"
    file = TINY_WEIGHTS if base == "tiny" else Path(base)
    _check_digest(file, manifest.base.get("sha256"), f"{engine} was made from another base")
    if manifest.adapter is None:
        if adapter is not None:
            raise ResamError(f"{engine}: made without an adapter; leave out --adapter")
        return Weights(base=base)
    if adapter is None:
        raise ResamError(f"{engine}: made with an adapter; say where it lies with --adapter FILE")
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

    def rival(name: str, factory: str, options: dict[str, Any], size_bytes: int | None) -> Rival:
        about = {"kind": "baseline", "precision": "fp32", **weights.describe()}
        tiled = {"factory": factory, "options": {**options, **shared}, **framed}
        return Rival(name, "resam_benchmarks.baselines.tiled:Tiled", tiled, size_bytes, about)

    torch_baselines = {
        "segment-anything": "resam_benchmarks.baselines.segment_anything:SegmentAnything",
        "torch": "resam_benchmarks.baselines.torch_modules:TorchModules",
    }
    rivals = []
    for name in dict.fromkeys(names):
        if name in torch_baselines:
            rivals.append(rival(name, torch_baselines[name], {"weights": weights}, None))
        elif name == "onnx-per-prompt":
            size, graphs = _published_graphs(weights, folder)
            factory = "resam_benchmarks.baselines.onnx_per_prompt:OnnxPerPrompt"
            bytes_on_disk = sum(file.stat().st_size for file in graphs.iterdir())
            rivals.append(rival(name, factory, {"folder": str(graphs), "size": size}, bytes_on_disk))
        else:
            raise ResamError(f"--baseline {name}: expected one of {', '.join(BASELINES)}")
    return rivals


def _published_graphs(weights: Weights, folder: Path) -> tuple[int, Path]:
    from resam_benchmarks.baselines.published_export import export_graphs

    graphs = folder / "onnx-per-prompt"
    graphs.mkdir(parents=True, exist_ok=True)
    with Worker("resam_benchmarks.baselines.published_export:Exporter") as worker:
        return worker.call(export_graphs, weights, str(graphs)), graphs
