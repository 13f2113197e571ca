"""Is the engine what was trained? Its graphs in ONNX Runtime against torch, before the file is written.

Two kinds of inputs. Random ones show that a graph computes what its torch module computes, with more than one tile
and prompt; images show what the difference means: to masks, boxes and scores, and to the IoU with true masks. fp16 is
executed twice: as stored, and rounded as a GPU rounds (`resam_export.rounding`).

`relative_error` of a tensor: |x - y| / |y|, Euclidean norms over the whole tensor, y from torch in fp32; the largest
over all inputs. Only tensors before Refine are held to it where numbers are rounded: Refine compares with a threshold,
and a cell that flips moves a box; there the masks' IoU counts. So it does for every mask of graphs that
make masks in full near their edges alone; the reference makes them in full everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from resam_runtime.engine.precisions import Precision, Tolerances
from resam_runtime.tiles.prompt_batch import with_sides

from .graphs import Graph
from .models import Feeds, open_session, run_session, to_bytes
from .precision import half_values
from .prompted_tiles import PromptedTile
from .rounding import rounded

# Tiles on which each graph is also run by itself, and as stored; on the others the engine as a whole, rounded.
ALONE = 4
EDGES_IOU = 0.995  # mean IoU of masks made in full near their edges with those made in full everywhere, at least
Arrays = dict[str, NDArray[Any]]


@dataclass
class Verification:
    """What was found. report: plain data for manifest and table; misses: one line per limit that is missed."""

    report: dict[str, Any] = field(default_factory=dict)
    misses: list[str] = field(default_factory=list)


def verify(
    graphs: Mapping[str, Graph],
    models: Mapping[str, ir.Model],
    precision: Precision,
    tiles: Iterable[PromptedTile],
    advance: Callable[[str], None] = lambda step: None,
) -> Verification:
    """Compare every graph with its torch reference on random inputs and on tiles; of a loop that takes sizes every
    other prompt has one."""
    found, sized = _Findings(precision.tolerances, edges=graphs["loop"].edges), graphs["loop"].sized
    stored = {name: open_session(to_bytes(model)) for name, model in models.items()}
    advance("verify: random inputs")
    for name, graph in graphs.items():
        feeds = random_inputs(graph)
        found.tensors(name, run_session(stored[name], feeds), _torch(graph, feeds), "random")
    executions = {"stored": stored}
    if any(half_values(model) for model in models.values()):
        executions["rounded"] = {name: open_session(rounded(model)) for name, model in models.items()}
    last, with_truth = list(executions)[-1], 0
    for number, tile in enumerate(tiles, 1):
        advance(f"verify: image {number}")
        with_truth += tile.truths is not None
        prompts = {"point_coords": tile.coords, "point_labels": tile.labels}
        embedding = _torch(graphs["encoder"], {"image": tile.image})
        feeds = {"image": tile.image, **embedding, **prompts}
        loop_prompts: Feeds = _sized(tile) if sized else prompts
        loop_feeds = {**feeds, **loop_prompts}
        wanted = _torch(graphs["loop"], loop_feeds)
        found.reference(tile, wanted)
        references = {"loop": wanted}
        if sized:
            references["decoder"] = _torch(graphs["decoder"], feeds)
        else:  # the loop's first pass is the decoder: not run again
            references["decoder"] = {"masks": wanted["coarse_masks"], "scores": wanted["coarse_scores"]}
        for name in [name for name in graphs if name not in ("encoder", *references)] if number <= ALONE else ():
            references[name] = _torch(graphs[name], feeds)
        for kind, sessions in executions.items():
            if number > ALONE and kind != last:
                continue
            mine = run_session(sessions["encoder"], {"image": tile.image})
            found.tensors("encoder", mine, embedding, kind)
            for name, reference in references.items() if number <= ALONE else ():
                given = loop_feeds if name == "loop" else feeds
                alone = {spec.name: given[spec.name] for spec in graphs[name].inputs}
                found.tensors(name, run_session(sessions[name], alone), reference, kind)
            found.engine(kind, tile, run_session(sessions["loop"], {**mine, **loop_prompts}), wanted)
    return found.result(precision.exact, with_truth)


class _Findings:
    """Collects errors, then judges them."""

    def __init__(self, limits: Tolerances, edges: bool = False) -> None:
        self.limits, self.edges = limits, edges
        self.iou = min(limits.iou, EDGES_IOU) if edges else limits.iou
        self.errors: dict[str, dict[str, float]] = {}  # "graph.tensor" -> kind of inputs or execution -> error
        self.rows: dict[str, list[NDArray[np.float64]]] = {}  # execution -> per tile (N, 6), see `engine`
        self.tiles = 0
        self.before: NDArray[np.float64] = np.empty(0)  # IoU of torch's masks with the true ones, last tile

    def tensors(self, graph: str, mine: Arrays, wanted: Arrays, kind: str) -> None:
        for name, theirs in wanted.items():
            errors = self.errors.setdefault(f"{graph}.{name}", {})
            errors[kind] = max(errors.get(kind, 0.0), relative_error(mine[name], theirs))

    def reference(self, tile: PromptedTile, wanted: Arrays) -> None:
        self.tiles += 1
        self.before = _known(wanted["masks"], tile)

    def engine(self, kind: str, tile: PromptedTile, mine: Arrays, wanted: Arrays) -> None:
        """The whole engine: encoder and loop in a row against torch's."""
        columns = (
            mask_iou(mine["masks"] > 0, wanted["masks"] > 0),
            mask_iou(mine["coarse_masks"] > 0, wanted["coarse_masks"] > 0),
            np.abs(mine["boxes"] - wanted["boxes"]).max(axis=1),
            np.abs(mine["scores"] - wanted["scores"]),
            _known(mine["masks"], tile),
            self.before,
        )
        self.rows.setdefault(kind, []).append(np.stack([np.asarray(column, np.float64) for column in columns], axis=1))

    def result(self, exact: bool, with_truth: int) -> Verification:
        out = Verification()
        tensors: dict[str, Any] = {}
        for name, errors in self.errors.items():
            graph, _, tensor = name.partition(".")
            judged = (exact and not self.edges) or graph != "loop" or tensor.startswith("coarse")
            judged = judged and not (self.edges and tensor.endswith("masks"))
            limit = self.limits.encoder if graph == "encoder" else self.limits.prompted
            tensors[name] = {**errors, "limit": limit if judged else None}
            for kind, error in errors.items():
                if judged and not error <= limit:
                    out.misses.append(
                        f"graph {graph}: {tensor} differs from torch by {error:.1e} ({kind}), limit {limit:g}"
                    )
        masks: dict[str, Any] = {}
        for kind, blocks in self.rows.items():
            rows = np.concatenate(blocks)
            iou, coarse, box, score = (float(rows[:, column].mean()) for column in range(4))
            masks[kind] = {
                "instances": len(rows), "iou": iou, "coarse_iou": coarse, "iou_limit": self.iou,
                "box_error_px": box, "score_error": score,
            }  # fmt: skip
            if not np.isnan(rows[:, 4]).all():
                after, before = (float(np.nanmean(rows[:, column])) for column in (4, 5))
                masks[kind] |= {"miou": after, "miou_torch": before, "miou_drop_limit": self.limits.drop}
            for tensor, value, column in (("masks", iou, 0), ("coarse_masks", coarse, 1)):
                if not value + uncertainty(rows[:, column]) >= self.iou:
                    out.misses.append(
                        f"graph loop: {tensor} have a mean IoU of {value:.4f} with torch's ({kind}), limit {self.iou:g}"
                    )
            if "miou" in masks[kind]:
                after, before = masks[kind]["miou"], masks[kind]["miou_torch"]
                if not before - after - uncertainty(rows[:, 5] - rows[:, 4]) <= self.limits.drop:
                    out.misses.append(
                        f"graph loop: masks lose {before - after:.4f} of the mean IoU with the true masks "
                        f"({kind}), limit {self.limits.drop:g}"
                    )
        out.report = {
            "passed": not out.misses,
            "images": self.tiles,
            "images_with_truth": with_truth,
            "instances": max((sum(map(len, blocks)) for blocks in self.rows.values()), default=0),
            "masks": masks,
            "relative_error": tensors,
            "misses": list(out.misses),
        }
        return out


def uncertainty(values: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of a mean of (N,) values, those that are NaN left out: of few masks one that flips as a
    whole moves the mean, and says little. 0 for fewer than two."""
    known = values[~np.isnan(values)]
    return float(1.96 * known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else 0.0


def plain(data: Any) -> Any:
    """A report as JSON can hold it: numbers that are not finite become "inf", "-inf" or "nan"."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [plain(value) for value in data]
    return data if not isinstance(data, float) or math.isfinite(data) else str(data)


def relative_error(mine: NDArray[Any], theirs: NDArray[Any]) -> float:
    """|mine - theirs| / |theirs|, Euclidean norms; infinite where one of them is not finite."""
    difference = np.linalg.norm(mine.astype(np.float64).ravel() - theirs.astype(np.float64).ravel())
    error = float(difference / max(1e-12, float(np.linalg.norm(theirs.astype(np.float64).ravel()))))
    return error if np.isfinite(error) else float("inf")


def mask_iou(mine: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of N pairs of masks (N, H, W); two empty masks agree."""
    both = (mine & theirs).sum(axis=(1, 2))
    either = (mine | theirs).sum(axis=(1, 2))
    return np.where(either == 0, 1.0, both / np.maximum(1, either))


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs of two tiles (encoder) or three prompts of two points."""
    rng = np.random.default_rng(seed)
    sizes = {"B": 2, "N": 3, "P": 2}
    inputs: dict[str, NDArray[Any]] = {}
    for spec in graph.inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        if spec.name == "image":
            inputs[spec.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif spec.name == "point_labels":
            inputs[spec.name] = np.array([[1, 0], [1, -1], [1, 1]], np.int32)
        elif spec.name == "point_coords":
            inputs[spec.name] = rng.uniform(0, 200, shape).astype(np.float32)
        else:
            inputs[spec.name] = rng.standard_normal(shape).astype(np.float32)
    return inputs


def _sized(tile: PromptedTile) -> Feeds:
    """The tile's prompts, every other with its true size, or an eighth of the tile where nobody knows it."""
    count, size = len(tile.coords), tile.image.shape[1]
    sides = np.full(count, size / 8) if tile.truths is None else np.sqrt(tile.truths.sum((1, 2)))
    sides[::2] = 0
    coords, labels = with_sides(tile.coords, tile.labels, sides.astype(np.float32))
    return {"point_coords": coords, "point_labels": labels}


def _torch(graph: Graph, feeds: Feeds) -> Arrays:
    with torch.no_grad():
        wanted = graph.reference(*(torch.from_numpy(feeds[spec.name]) for spec in graph.inputs))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    return {spec.name: value.numpy() for spec, value in zip(graph.outputs, wanted, strict=True)}


def _known(logits: NDArray[np.float32], tile: PromptedTile) -> NDArray[np.float64]:
    """IoU with the true masks, NaN where they are not known."""
    return np.full(len(logits), np.nan) if tile.truths is None else _true_iou(logits, tile.truths)


def _true_iou(logits: NDArray[np.float32], truths: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of mask logits (N, M, M), scaled up to the tile, with true masks (N, S, S)."""
    import cv2

    size = truths.shape[-1]
    found = np.stack([cv2.resize(mask, (size, size), interpolation=cv2.INTER_LINEAR) > 0 for mask in logits])
    return mask_iou(found, truths)
