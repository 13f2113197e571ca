"""Teaching the prompter once the adapter is made: embeddings are encoded once, the head alone learns, in minutes.

1. A part of the clicked scenes is set aside (`aside`).
2. The adapted model makes pseudo-masks of all clicks (`make_examples`).
3. The head learns on all tiles of the others, at three scales, mirrored by chance (`fit`): half of each batch are drawn
   evenly, half by how much was wrong when they were last seen, which are the hard negatives, and the hard positives.
4. On the scenes set aside its peaks are compared with the clicks, and thresholds are chosen (`choose`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from resam.data.prompts import pointed
from resam.data.tiles import tile_points
from resam.data.training_set import TrainingSet
from resam.data.views import draw_mirror
from resam.model.encoder import ImageEncoder
from resam.model.prompter import Prompter, box_corners
from resam.model.refine_requery import RefineRequery
from resam.training.options import TrainOptions
from resam.training.prompter.embeddings import Embeddings, encode_windows, windows_to_choose, windows_to_teach
from resam.training.prompter.examples import Example, scene_crop, tile_instances
from resam.training.prompter.losses import box_loss, centre_loss
from resam.training.prompter.targets import Targets, make_targets
from resam.training.prompter.thresholds import Clicked, choose_thresholds
from resam_runtime.engine.prompter_spec import FoundClass, PrompterSpec
from resam_runtime.masks.crops import mask_iou
from resam_runtime.masks.instance import Category
from resam_runtime.points import Prompt
from resam_runtime.segment.finder import own_peaks
from resam_runtime.segment.peaks import MAX_OVERLAP, distinct, find_peaks
from resam_runtime.tiles.letterbox import tile_to_scene
from resam_runtime.tiles.tiling import Tile, owned_windows

ASIDE = 0.15  # share of the clicked scenes on which thresholds are chosen
BATCH = 8
LEAST = 0.03  # score of the faintest peaks that thresholds are chosen among
WARMUP = 30  # steps
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, eq=False)
class TaughtPrompter:
    """The head; its classes, in the order of its heat maps, with their thresholds; figures: how it went."""

    head: Prompter
    classes: Sequence[FoundClass]
    figures: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """What an adapter says of it; an engine's manifest the same, without the figures."""
        return {**asdict(PrompterSpec(tuple(self.classes))), **self.figures}

    def lines(self) -> list[str]:
        """What a person wants to know of it, a line a class."""
        told = []
        for one in self.classes:
            nearest = min(one.table, key=lambda row: abs(row[0] - one.threshold))
            rates = f"about {nearest[1]:.2f} of what it finds is right, {nearest[2]:.2f} of the clicks are found"
            told.append(
                f"prompter, {one.name}: score from {one.threshold:.2f}"
                + (f"; on {one.clicks} clicks set aside {rates}" if one.clicks else "; no click of it was set aside")
            )
        return told


class ClickedClasses:
    """The classes of a set's clicks, in the order of the heat maps; one, "instance", where the clicks say none."""

    def __init__(self, samples: TrainingSet) -> None:
        given = {one.category for own in samples.prompts for one in own if one.category is not None}
        known = {one.id for one in given if one.id is not None}
        names = {one.id: one.name or samples.data.categories.get(one.id) for one in given if one.id is not None}
        numbered = [Category(number, str(names[number] or number)) for number in sorted(known)]
        free = itertools.filterfalse(known.__contains__, itertools.count(1))
        others = sorted({one.name for one in given if one.id is None and one.name is not None})
        others = [name for name in others if name not in {one.name for one in numbered}]
        self.categories = [*numbered, *(Category(next(free), name) for name in others)] or [Category(1, "instance")]
        self._place = {one.id: place for place, one in enumerate(self.categories)}
        self._named = {one.name: place for place, one in enumerate(self.categories)}

    def __len__(self) -> int:
        return len(self.categories)

    def place(self, prompt: Prompt) -> int:
        """The heat map of a prompt's class; of one that says none the first."""
        category = prompt.category
        if category is None:
            return 0
        return self._named[category.name] if category.id is None else self._place[category.id]


def teach_prompter(
    folder: Path,
    encoder: ImageEncoder,
    loop: RefineRequery,
    samples: TrainingSet,
    options: TrainOptions,
    fabric: Fabric,
    start: Callable[[str, int], None] = lambda what, steps: None,
    step: Callable[[], None] = lambda: None,
) -> TaughtPrompter:
    """Teach a new head on the embeddings of `encoder`, with pseudo-masks that `loop` makes or `samples` are given.

    folder: where a file of embeddings lies meanwhile. start: told what begins and in how many steps; step: called after
    each. Raises `ResamError` for an image that cannot be read, and a disk that is full.
    """
    scenes, architecture = samples.data.scenes, samples.architecture
    size, classes = architecture.image_size, ClickedClasses(samples)
    chosen = _aside(samples)
    taught = [number for number in range(len(scenes)) if number not in set(chosen)]
    if options.clicked >= 1 or not any(samples.prompts[number] for number in taught):
        used = taught
    else:
        used = [number for number in taught if samples.prompts[number]]
    windows = windows_to_teach(scenes, used, size, samples.framing, options.seed)
    start("prompter: tiles", len(windows))
    files = folder / ".prompter.embeddings", folder / ".prompter.aside"
    try:
        known = encode_windows(files[0], scenes, windows, encoder, size, fabric, step)
        examples = make_examples(known, loop, samples, classes, fabric)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            head = Prompter(architecture.embedding_dim, len(classes), size, architecture.grid).to(fabric.device)
        start("prompter", options.prompter_steps)
        losses = fit(head, known, examples, options, fabric, step)
        aside = windows_to_choose(scenes, chosen, size, samples.framing)
        start("prompter: thresholds", len(aside))
        unseen = encode_windows(files[1], scenes, aside, encoder, size, fabric, step)
        clicked = [_clicked(number, head, unseen, samples, classes, fabric) for number in chosen]
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    choices = choose_thresholds(clicked, len(classes), options.clicked)
    found = [
        FoundClass(one.id or 0, one.name or "", choice.threshold, choice.clicks, choice.table)
        for one, choice in zip(classes.categories, choices)
    ]
    figures = {"scenes": len(used), "scenes_aside": len(chosen), "steps": options.prompter_steps, **losses}
    return TaughtPrompter(head.eval(), found, figures)


def make_examples(
    known: Embeddings, loop: RefineRequery, samples: TrainingSet, classes: ClickedClasses, fabric: Fabric
) -> dict[int, list[Example]]:
    """The examples of each scene whose tiles are encoded, by the scene's number."""
    size = samples.architecture.image_size
    rows = {(seen.scene, seen.tile): row for row, seen in enumerate(known.windows)}
    examples: dict[int, list[Example]] = {seen.scene: [] for seen in known.windows}
    for number, sample in enumerate(samples.samples):
        row = rows.get((sample.scene, sample.tile))
        if row is None:
            continue
        mirror, prompts = known.windows[row].mirror, [samples.prompts[sample.scene][i] for i in sample.prompts]
        coords, labels = tile_points(prompts, sample.tile, mirror)
        with torch.no_grad(), fabric.autocast():
            embedding = known.batch([row]).to(fabric.device)
            out = loop(
                embedding, torch.from_numpy(coords).to(fabric.device), torch.from_numpy(labels).to(fabric.device)
            )
        final, coarse = (masks.float().cpu().numpy() for masks in (out.masks, out.coarse_masks))
        given, given_mirror = _given(samples, number)
        for place, prompt in enumerate(prompts):
            crop = scene_crop(final[place], sample.tile, mirror, size)
            other = scene_crop(coarse[place], sample.tile, mirror, size)
            if given is not None:
                crop, other = scene_crop(given[place] - 0.5, sample.tile, given_mirror, size), crop
            weight = 1.0 if samples.supervised else mask_iou(*crop, *other)
            examples[sample.scene].append(Example(_click(prompt), classes.place(prompt), *crop, weight))
    return examples


def fit(
    head: Prompter,
    known: Embeddings,
    examples: Mapping[int, Sequence[Example]],
    options: TrainOptions,
    fabric: Fabric,
    step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Teach `head`, in place. Returns the mean losses of the last quarter of the steps."""
    size, grid = head.image_size, round(head.image_size / head.cell)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.prompter_rate, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng((options.seed, len(known.windows)))
    hardness = np.full(len(known.windows), np.nan)
    rows: list[tuple[float, float]] = []
    for number in range(options.prompter_steps):
        progress = number / options.prompter_steps
        for group in optimizer.param_groups:
            rise = min(1.0, (number + 1) / WARMUP)
            group["lr"] = options.prompter_rate * rise * (0.505 + 0.495 * math.cos(math.pi * progress))
        drawn = _draw(rng, hardness)
        seen = [known.windows[row] for row in drawn]
        shown = (tile_instances(examples[one.scene], one.tile, one.mirror, size, grid) for one in seen)
        targets = [make_targets(instances, head.classes, size, grid) for instances in shown]
        heat, counted, boxes, weight = _stack(targets, fabric.device)
        with fabric.autocast():
            logits, distances = head(known.batch(drawn).to(fabric.device))
        centres = centre_loss(logits, heat, counted, options.clicked)
        sizes = box_loss(box_corners(distances.float(), head.cell), boxes, weight)
        (centres + sizes).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad()
        hardness[drawn] = wrongness(logits.detach(), heat, counted)
        rows.append((float(centres.detach()), float(sizes.detach())))
        step()
    last = np.array(rows[-max(1, len(rows) // 4) :] or [(0.0, 0.0)])
    return {"centre_loss": round(float(last[:, 0].mean()), 4), "box_loss": round(float(last[:, 1].mean()), 4)}


def _draw(rng: np.random.Generator, hardness: NDArray[np.float64]) -> NDArray[np.intp]:
    """A batch of rows: half of it drawn evenly, half in proportion to its hardness, which is NaN for what was not seen
    yet: that is taken to be as hard as the others."""
    count = min(BATCH, len(hardness))
    drawn = rng.choice(len(hardness), count - count // 2, replace=False)
    left = np.setdiff1d(np.arange(len(hardness)), drawn)
    known = ~np.isnan(hardness)
    share = np.where(known, hardness, hardness[known].mean() if known.any() else 1.0)[left] + 1e-9
    return np.concatenate((drawn, rng.choice(left, count - len(drawn), replace=False, p=share / share.sum())))


@torch.no_grad()
def wrongness(logits: torch.Tensor, heat: torch.Tensor, counted: torch.Tensor) -> NDArray[np.float64]:
    """How much of each tile (B, K, H, W) the heat is wrong about: the sum of the centre loss, (B,)."""
    return np.array([float(centre_loss(*one)) for one in zip(logits[:, None], heat[:, None], counted[:, None])])


def _stack(targets: Sequence[Targets], device: torch.device) -> list[torch.Tensor]:
    """heat, counted, boxes and weight of several tiles, each (B, ...) float32."""
    names = ("heat", "counted", "boxes", "weight")
    stacked = (np.stack([getattr(target, name) for target in targets]).astype(np.float32) for name in names)
    return [torch.from_numpy(values).to(device) for values in stacked]


def _aside(samples: TrainingSet) -> list[int]:
    """The numbers of the scenes set aside: evenly spread among those with a click; at least one if there are two."""
    clicked = pointed(samples.prompts)
    if len(clicked) < 2:
        return clicked  # better than no threshold: the only scene, which the head has seen
    count = max(1, round(ASIDE * len(clicked)))
    order = np.random.default_rng((samples.seed, len(clicked))).permutation(len(clicked))[:count]
    return sorted(clicked[i] for i in order)


def _given(samples: TrainingSet, number: int) -> tuple[NDArray[np.float32] | None, tuple[bool, bool]]:
    """The masks that sample `number` is given to teach, if any, and how its window is mirrored then."""
    mirror = draw_mirror(np.random.default_rng((samples.seed, 0, number)))
    return samples.load(number, 0).given, mirror


def _click(prompt: Prompt) -> NDArray[np.float32]:
    """The first point on the instance; the middle of what there is, where none is."""
    on = prompt.coords[prompt.labels == 1]
    return on[0] if len(on) else prompt.coords.mean(axis=0)


def _clicked(
    number: int,
    head: Prompter,
    unseen: Embeddings,
    samples: TrainingSet,
    classes: ClickedClasses,
    fabric: Fabric,
) -> Clicked:
    """What the head finds in scene `number`, as the engine would before the loop, and the scene's clicks."""
    rows = [row for row, seen in enumerate(unseen.windows) if seen.scene == number]
    tiles = [unseen.windows[row].tile for row in rows]
    found = [_peaks(head, unseen.batch([row]), tiles, place, fabric) for place, row in enumerate(rows)]
    scores, boxes, numbers = (np.concatenate(parts) for parts in zip(*found))
    order = np.argsort(-scores, kind="stable")
    order = order[distinct(boxes[order], MAX_OVERLAP)]
    prompts = samples.prompts[number]
    wanted = [classes.place(prompt) for prompt in prompts]
    clicks = np.array([_click(prompt) for prompt in prompts], np.float32).reshape(-1, 2)
    return Clicked(scores[order], boxes[order], numbers[order], clicks, np.array(wanted, np.intp))


@torch.no_grad()
def _peaks(
    head: Prompter, embedding: torch.Tensor, tiles: Sequence[Tile], place: int, fabric: Fabric
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.intp]]:
    """Scores, boxes in scene pixels and classes of the peaks that a tile owns."""
    tile, size = tiles[place], head.image_size
    logits, distances = (out[0].float().cpu().numpy() for out in head(embedding.to(fabric.device)))
    peaks = find_peaks(logits, distances, size, tile.filled_hw(size), LEAST)
    peaks = own_peaks(peaks, tile, owned_windows(tiles)[place])
    corners = tile_to_scene(peaks.boxes.reshape(-1, 2, 2), tile.scale, tile.origin).reshape(-1, 4)
    return peaks.scores, corners, peaks.classes
