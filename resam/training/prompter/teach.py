"""Teaching the prompter once the adapter is made: embeddings are encoded once, the head alone learns, in minutes.

1. A part of the clicked scenes is set aside.
2. The adapted model makes pseudo-masks of all clicks (`make_examples`).
3. The head learns on all tiles of the others, at three scales, mirrored by chance (`fit`).
4. On the scenes set aside its peaks are compared with the clicks, and thresholds are chosen
   (`choose_thresholds`).
"""

from __future__ import annotations

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
from resam.model.prompter import Prompter
from resam.model.refine_requery import RefineRequery
from resam.training.options import TrainOptions
from resam.training.prompter.classes import ClickedClasses
from resam.training.prompter.embeddings import Embeddings, encode_windows, windows_to_choose, windows_to_teach
from resam.training.prompter.examples import Example, scene_crop
from resam.training.prompter.fit import fit
from resam.training.prompter.thresholds import Clicked, choose_thresholds
from resam_runtime.engine.prompter_spec import FoundClass, PrompterSpec
from resam_runtime.masks.crops import mask_iou
from resam_runtime.points import Prompt
from resam_runtime.segment.finder import own_peaks
from resam_runtime.segment.peaks import MAX_OVERLAP, distinct, find_peaks
from resam_runtime.tiles.letterbox import tile_to_scene
from resam_runtime.tiles.tiling import Tile, owned_windows

ASIDE = 0.15  # share of the clicked scenes on which thresholds are chosen
LEAST = 0.03  # score of the faintest peaks that thresholds are chosen among


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
            rates = f"about {nearest[1]:.2f} of what it finds is correct, {nearest[2]:.2f} of the clicks are found"
            told.append(
                f"prompter, {one.name}: score from {one.threshold:.2f}"
                + (
                    f"; on {one.clicks} clicks set aside {rates}"
                    if one.clicks
                    else "; none of its clicks was set aside"
                )
            )
        return told


def teach_prompter(
    folder: Path,
    encoder: ImageEncoder,
    loop: RefineRequery,
    samples: TrainingSet,
    options: TrainOptions,
    fabric: Fabric,
    start: Callable[[str, int], None] = lambda what, steps: None,
    step: Callable[[], None] = lambda: None,
    begin: Prompter | None = None,
) -> TaughtPrompter:
    """Teach a new head, or go on with the head `begin`, on the embeddings of `encoder`, with pseudo-masks that `loop`
    makes or `samples` are given.

    folder: where a file of embeddings lies meanwhile. start: told what begins and in how many steps; step: called after
    each. Raises `ResamError` for an image that cannot be read, and a disk that is full.
    """
    scenes, architecture = samples.data.scenes, samples.architecture
    size, classes = architecture.image_size, ClickedClasses(samples)
    chosen = _aside(samples)
    used = _taught(samples, chosen, exhaustive=options.clicked >= 1)
    windows = windows_to_teach(scenes, used, size, samples.framing, options.seed)
    start("prompter: tiles", len(windows))
    files = folder / ".prompter.embeddings", folder / ".prompter.aside"
    try:
        known = encode_windows(files[0], scenes, windows, encoder, size, fabric, step)
        examples = make_examples(known, loop, samples, classes, fabric)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            new = Prompter(architecture.embedding_dim, len(classes), size, architecture.grid)
        head = (begin or new).to(fabric.device)
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
        mirror, prompts = known.windows[row].mirror, [samples.with_box(sample.scene, i) for i in sample.prompts]
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


def _aside(samples: TrainingSet) -> list[int]:
    """The numbers of the scenes set aside: those that the run has set aside; else some of those with a click, at least
    one if there are two."""
    if samples.set_aside:
        return sorted({sample.scene for sample in samples.set_aside})
    clicked = pointed(samples.prompts)
    if len(clicked) < 2:
        return clicked  # better than no threshold: the only scene, which the head has seen
    count = max(1, round(ASIDE * len(clicked)))
    order = np.random.default_rng((samples.seed, len(clicked))).permutation(len(clicked))[:count]
    return sorted(clicked[i] for i in order)


def _taught(samples: TrainingSet, aside: Sequence[int], exhaustive: bool) -> list[int]:
    """The numbers of the scenes that teach: those with a click, and those that are known to hold nothing. That a points
    file does not name a scene may as well mean that nobody has looked at it."""
    empty_counts = exhaustive and samples.points.file is None
    numbers = [n for n, own in enumerate(samples.prompts) if (own or empty_counts) and n not in aside]
    return numbers if any(samples.prompts[number] for number in numbers) else list(aside)


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
