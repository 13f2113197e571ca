"""COCO: `annotations` with `points` (a list) and `labels`, `point` (one) or `keypoints` (x, y, v; v > 0 counts).

On request their `bbox` is a box prompt. `box_prompt` is that of an earlier run, as `resam-run` writes it.
"""

from __future__ import annotations

from typing import Any

from resam_runtime.common.checked import Malformed, is_number, take
from resam_runtime.masks.instance import Category
from resam_runtime.points.entry import LIST, Parsed, PointKind, names_of, take_categories, take_instance
from resam_runtime.points.values import no_misspelt_label, no_shared_file, own_name, scene_name, take_id


def _parse(data: dict[str, Any], boxes: bool) -> Parsed:
    parsed = Parsed()
    files: dict[str | int, str] = {}
    for value in take(data.get("images"), LIST, "images"):
        image = take(value, dict, "images")
        name = scene_name(image.get("file_name"))
        if name is None or "id" not in image:
            raise Malformed("an image of images[] has no id or file_name")
        own = take_id(image["id"], f"image {name!r}")
        if own in files:
            raise Malformed(f"image id {own!r} appears twice")
        files[own] = name
        parsed.scenes.append(name)
        if "width" in image and "height" in image:
            parsed.sizes_wh[name] = (take(image["width"], int, name), take(image["height"], int, name))
    no_shared_file(files.items())
    parsed.categories = take_categories(data)
    names = names_of(parsed.categories)
    bare = 0
    for value in take(data.get("annotations"), LIST, "annotations"):
        annotation = take(value, dict, "annotations")
        where = f"annotation {annotation.get('id')!r}"
        if isinstance(annotation.get("image_id"), list | dict) or annotation.get("image_id") not in files:
            raise Malformed(f"{where}: image_id {annotation.get('image_id')!r} is not among the images")
        points = annotation.get("points")
        labels: Any = annotation.get("labels")
        if points is None and "point" in annotation:
            points = [annotation["point"]]
        if points is not None:
            no_misspelt_label(annotation, "labels", where)
        if points is None and "keypoints" in annotation:
            flat = take(annotation["keypoints"], LIST, f"{where}: keypoints")
            if len(flat) % 3:
                raise Malformed(f"{where}: keypoints come in threes (x, y, v), got {len(flat)} numbers")
            triples = [flat[at : at + 3] for at in range(0, len(flat), 3)]
            seen = [is_number(triple[2]) and triple[2] > 0 for triple in triples]
            points = [triple[:2] for triple, counts in zip(triples, seen) if counts]
            if isinstance(labels, list) and len(labels) == len(seen):  # one for each keypoint, seen or not
                labels = [label for label, counts in zip(labels, seen) if counts]
        called = own_name(annotation)
        called = annotation.get("id") if called is None else called
        called = len(parsed.entries) + 1 if called is None else called
        given = {"points": points or [], "labels": labels, "box": annotation.get("box_prompt")}
        entry = take_instance(given, files[annotation["image_id"]], where, called)
        if boxes and annotation.get("bbox") is not None:
            entry.outline = _bbox(annotation["bbox"], f"{where}: bbox")
        bare += points is None and not entry.outline
        if (number := annotation.get("category_id")) is not None:
            number = take(number, int, where)
            entry.category = Category(number, names.get(number))
        parsed.entries.append(entry)
    if parsed.entries and bare == len(parsed.entries):
        raise Malformed(
            "a COCO file whose annotations hold no points, point or keypoints; "
            "resam-run --boxes takes their bbox, resam-annotate or resam-train draw points from masks"
        )
    return parsed


def _bbox(value: Any, where: str) -> list[tuple[float, float]]:
    """The `Entry.outline` of [x, y, width, height], which count from the edge of the first pixel."""
    box = take(value, list[float], where)
    if len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        raise Malformed(f"{where}: expected [x, y, width, height], got {' '.join(str(value)[:60].split())}")
    x, y, width, height = box
    return [(x - 0.5, y - 0.5), (x + width - 0.5, y + height - 0.5)]


COCO = PointKind("COCO", "", _parse, "COCO (annotations)", lambda data: "annotations" in data or "images" in data)
