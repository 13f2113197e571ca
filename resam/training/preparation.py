"""What is made before the first epoch, of the base alone: the scale of the tiles, the consensus, the labels.

It depends on base, data and options, not on the seed: runs that differ in the seed alone can share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from resam.data.prompts import point_seed
from resam.data.taught import SoftMasks, load_masks, save_masks
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.training.consensus import consensus_masks
from resam.training.devices import on_main
from resam.training.framing import SCALES, best_framing, compare_framings
from resam.training.labels import certainty, make_labels
from resam.training.options import BY_IMAGE, EXAMPLES, TrainOptions
from resam.training.outputs import writing
from resam.training.progress import Reporter, Silent
from resam.training.run_data import RunData
from resam.training.sizes import STEADY, ObjectSizes, Size, SizeExample, example_sizes, said_sizes
from resam_runtime.masks.crops import mask_bounds
from resam_runtime.tiles.tiling import Framing


def training_set(options: TrainOptions, base: Base, data: RunData, reporter: Reporter) -> TrainingSet:
    """What a run walks through, at the base's own scale. Raises `ResamError` as `TrainingSet` does."""
    samples = TrainingSet(
        data.train,
        options.point_options(data.points_file, data.keypoints),
        base.architecture,
        Framing(options.fit_within or base.fit_within, options.scale),
        seed=options.seed,
        supervised=options.supervised,
        strength=options.strength,
        asked=options.asked,
        aside=options.set_aside,
        note=reporter.note,
    )
    if options.examples and not options.supervised:
        samples.boxes = draw_examples(samples, options.examples, by_image=options.sizes == BY_IMAGE)
    if options.says_sizes:
        _said(samples, options)  # a class that is not there is better told now than after the consensus
    return samples


def prepared_set(
    options: TrainOptions, base: Base, data: RunData, fabric: Fabric, cache: Path | None = None
) -> TrainingSet:
    """What a new run with these options walks through: at the scale that it chooses, with its labels.

    base: without LoRA. cache: a folder where a consensus is kept and looked for. Raises `ResamError` as `training_set`.
    """
    samples = training_set(options, base, data, Silent())
    if options.choose_scale:
        choose_framing(base, samples, fabric, Silent())
    if options.needs_consensus:
        path = None if cache is None else cache / f"consensus-{_identity(base, samples, options)}.npz"
        masks = load_masks(path) if path and path.is_file() else consensus_masks(base, samples, options, fabric)
        if path is not None and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_masks(path, masks)
        teach(samples, masks, options, Silent())
    return samples


def teach_consensus(
    path: Path, base: Base, samples: TrainingSet, options: TrainOptions, fabric: Fabric, reporter: Reporter, made: bool
) -> ObjectSizes | None:
    """Make the consensus and keep it at `path`, or take what a stopped run kept there (`made`), and `teach` it."""
    if made:
        masks = load_masks(path)
    else:
        reporter.start("pseudo-masks", -(-len(samples) // fabric.world_size))
        masks = consensus_masks(base, samples, options, fabric, reporter.step)

        def keep() -> None:
            with writing(path):
                save_masks(path, masks)

        on_main(fabric, keep)
    return teach(samples, masks, options, reporter)


def teach(samples: TrainingSet, consensus: SoftMasks, options: TrainOptions, reporter: Reporter) -> ObjectSizes | None:
    """Give the samples the labels that the options make of a consensus; the sizes that these have, if any are known."""
    sizes = object_sizes(samples, consensus, options, reporter.note) if options.sizes else None
    labels = make_labels(consensus, options.soft, known_sizes(samples, sizes))
    samples.teach(labels.masks, labels.weights)
    return sizes


def known_sizes(samples: TrainingSet, sizes: ObjectSizes | None) -> Callable[[tuple[int, int]], Size | None]:
    """The size of an instance, by numbers of scene and prompt, in cells of its mask grid, where one is known."""
    sides = _cell_sides(samples)

    def known(key: tuple[int, int]) -> Size | None:
        if sizes is None or key in samples.boxes:  # its own box says more than its class
            return None
        size = sizes.size(key[0], samples.class_of(*key))
        return None if size is None else size.scaled(sides[key])

    return known


def object_sizes(
    samples: TrainingSet, consensus: SoftMasks, options: TrainOptions, note: Callable[[str], None]
) -> ObjectSizes:
    """The sizes that the options say, or that the masks of the instances with a box tell."""
    if options.says_sizes:
        return _said(samples, options)
    sides = _cell_sides(samples)

    def of(key: tuple[int, int]) -> SizeExample:
        area = float((consensus[key].values > 127).sum()) * sides[key] ** 2
        return SizeExample(key[0], samples.class_of(*key), area)

    examples = [of(key) for key in samples.boxes if key in sides]
    others = [key for key in consensus if key not in samples.boxes]
    steady = [of(key) for key in others if certainty(consensus[key].full()) >= STEADY]
    return example_sizes(examples, steady, samples.data, note, by_class=options.sizes == EXAMPLES)


def _said(samples: TrainingSet, options: TrainOptions) -> ObjectSizes:
    names = {samples.class_of(scene, i) for scene, own in enumerate(samples.prompts) for i in range(len(own))}
    return said_sizes(options.sizes, samples.data, names)


def _cell_sides(samples: TrainingSet) -> dict[tuple[int, int], float]:
    """The side of a cell of each instance's mask grid, in pixels of its scene."""
    cell = samples.architecture.image_size / samples.architecture.mask_size
    return {(one.scene, prompt): cell / one.tile.scale for one in samples.samples for prompt in one.prompts}


def draw_examples(samples: TrainingSet, count: int, by_image: bool) -> dict[tuple[int, int], np.ndarray]:
    """The true boxes (4,) of `count` instances of each class, or of each image: drawn once, seeded by the data set.

    They stand for boxes that a person would draw.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for scene, prompts in enumerate(samples.prompts):
        for number in range(len(prompts)):
            groups.setdefault(str(scene) if by_image else samples.class_of(scene, number), []).append((scene, number))
    boxes = {}
    for name, members in groups.items():
        rng = np.random.default_rng(point_seed(samples.data.digest, name, count))
        for place in sorted(rng.choice(len(members), min(count, len(members)), replace=False).tolist()):
            scene, number = members[place]
            known = {instance.id: instance for instance in samples.data.scenes[scene].instances}
            bounds = mask_bounds(samples.data.scenes[scene].mask(known[samples.prompts[scene][number].id]))
            if bounds is not None:
                x0, y0, x1, y1 = bounds
                boxes[scene, number] = np.array([x0, y0, x1 - 1, y1 - 1], np.float32)
    return boxes


def choose_framing(base: Base, samples: TrainingSet, fabric: Fabric, reporter: Reporter) -> None:
    """Frame `samples` as the base's masks agree best, the same in every process."""
    reporter.start("choosing the scale", len(SCALES) + 1)
    scenes, prompts = samples.data.scenes, samples.prompts
    with fabric.autocast():
        found = compare_framings(base, scenes, prompts, samples.framing, fabric.device, reporter.step)
    chosen: Framing = fabric.broadcast(best_framing(found))
    figures = ", ".join(f"{one.framing.scale:.2f}: {one.mean:.3f}" for one in found)
    reporter.note(f"scale {chosen.scale:.2f}, by the agreement of the base's masks between scales ({figures})")
    samples.frame(chosen)


def _identity(base: Base, samples: TrainingSet, options: TrainOptions) -> str:
    """What a consensus depends on, as 16 hex digits."""
    digest = hashlib.sha256(f"{base.sha256} {options.tau} {options.requery} {options.rounds}".encode())
    for sample in samples.samples:
        digest.update(f"{samples.data.scenes[sample.scene].path} {sample}".encode())
        for number in sample.prompts:
            prompt = samples.with_box(sample.scene, number)
            digest.update(prompt.coords.tobytes() + prompt.labels.tobytes())
    return digest.hexdigest()[:16]
