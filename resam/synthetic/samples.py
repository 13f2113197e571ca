"""python -m resam.synthetic.samples FOLDER: the five drawn scenes in `samples/`, with one point on each object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from resam.synthetic.scenes import CATEGORIES, SyntheticScene, generate_scene
from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import command_errors

KINDS = ("harbour", "suburb", "tanks", "airport", "sar_harbour")
_SEED = (
    1 << 39
)  # far from the seeds of `resam.synthetic.dataset.scene_seed`, which count scenes from multiples of 2**40


def sample_points(scene: SyntheticScene) -> list[dict[str, Any]]:
    """An instance's entry of a points file each: one click, in pixels of the scene, where the object is widest."""
    entries = []
    for number, ((x, y, crop), category) in enumerate(zip(scene.masks, scene.categories), start=1):
        inside = cv2.distanceTransform(np.pad(crop, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        row, column = np.unravel_index(int(inside.argmax()), inside.shape)
        point = [x + int(column), y + int(row)]
        entries.append({"id": number, "points": [point], "category": CATEGORIES.index(category) + 1})
    return entries


@click.command(context_settings=HELP, epilog="Example: python -m resam.synthetic.samples samples")
@click.argument("folder", type=click.Path(path_type=Path))
@version
@command_errors
def main(folder: Path) -> None:
    """Write the sample scenes (JPEG) and their points.json to FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {}
    for number, kind in enumerate(KINDS):
        scene = generate_scene(_SEED + number, kind=kind)
        height, width = scene.image.shape[:2]
        cv2.imwrite(str(folder / f"{kind}.jpg"), scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        scenes[f"{kind}.jpg"] = {"width": width, "height": height, "instances": sample_points(scene)}
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, start=1)]
    document = {"format": "resam-points", "version": 1, "categories": categories, "scenes": scenes}
    (folder / "points.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{folder}: {len(scenes)} scenes, {sum(len(one['instances']) for one in scenes.values())} points")


if __name__ == "__main__":
    main(prog_name="python -m resam.synthetic.samples")
