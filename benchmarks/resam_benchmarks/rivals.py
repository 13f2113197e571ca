"""From names on a command line to rivals: engine files, and baselines with the weights of an engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.cases import Rival
from resam_benchmarks.worker import Worker
from resam_runtime.engine_file import EngineFile, Manifest
from resam_runtime.errors import ResamError
from resam_runtime.files import sha256_file

BASELINES = ("segment-anything", "onnx-per-prompt", "torch")


def engine_rivals(paths: Sequence[Path], device: str | None = None, threads: int | None = None) -> list[Rival]:
    """One rival per engine file, named by the file (and its folder where two have the same name)."""
    counts = Counter(path.stem for path in paths)
    rivals = []
    for path in paths:
        manifest = EngineFile.open(path).manifest
        name = path.stem if counts[path.stem] == 1 else f"{path.parent.name}/{path.name}"
        about = {
            "kind": "engine",
            "backend": manifest.backend,
            "precision": manifest.precision,
            "base": dict(manifest.base),
            "adapter": None if manifest.adapter is None else dict(manifest.adapter),
            "automatic": True,
        }
        options = {"path": str(path), "device": device, "threads": threads}
        factory = "resam_benchmarks.engine_contender:EngineContender"
        rivals.append(Rival(name, factory, options, path.stat().st_size, about))
    if len({rival.name for rival in rivals}) < len(rivals):
        raise ResamError(f"{paths[0]}: the same engine file is given twice; give each once")
    return rivals


def loop_settings(manifest: Manifest) -> LoopSettings:
    """Refine and Requery as an engine has them."""
    from resam.model.refine_requery import refine_logit

    tau = manifest.refine_threshold
    return LoopSettings(tau, refine_logit(tau), manifest.requery, manifest.rounds)


def weights_of(engine: Path, base: str | None, adapter: Path | None) -> Weights:
    """The weights that an engine was exported from: its manifest names them, `base` and `adapter` say where they lie.

    Raises `ResamError` where a file is needed and not given, or is not the one that the manifest names.
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
    settings: LoopSettings,
    folder: Path,
    device: str | None = None,
    threads: int | None = None,
) -> list[Rival]:
    """Baselines by name, all with the same weights and loop. folder: for files that they need while they run."""
    shared = {"settings": settings, "device": device, "threads": threads}
    torch_baselines = {
        "segment-anything": "resam_benchmarks.baselines.segment_anything:SegmentAnything",
        "torch": "resam_benchmarks.baselines.torch_modules:TorchModules",
    }
    rivals = []
    for name in dict.fromkeys(names):
        about = {"kind": "baseline", "precision": "fp32", **weights.describe()}
        if name in torch_baselines:
            rivals.append(Rival(name, torch_baselines[name], {"weights": weights, **shared}, None, about))
        elif name == "onnx-per-prompt":
            size, graphs = _published_graphs(weights, folder)
            factory = "resam_benchmarks.baselines.onnx_per_prompt:OnnxPerPrompt"
            bytes_on_disk = sum(file.stat().st_size for file in graphs.iterdir())
            rivals.append(Rival(name, factory, {"folder": str(graphs), "size": size, **shared}, bytes_on_disk, about))
        else:
            raise ResamError(f"--baseline {name}: expected one of {', '.join(BASELINES)}")
    return rivals


def _published_graphs(weights: Weights, folder: Path) -> tuple[int, Path]:
    from resam_benchmarks.baselines.published_export import export_graphs

    graphs = folder / "onnx-per-prompt"
    graphs.mkdir(parents=True, exist_ok=True)
    with Worker("resam_benchmarks.baselines.published_export:Exporter") as worker:
        return worker.call(export_graphs, weights, str(graphs)), graphs
