"""Synthetic scenes as an ordinary COCO data set on disk."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from resam.data.coco import SPLITS
from resam.synthetic.scenes import CATEGORIES, KINDS, VERSION, SyntheticScene, generate_scene
from resam_runtime.common.errors import ResamError
from resam_runtime.masks.rle import encode_rle


def scene_seed(seed: int, split: str, number: int) -> int:
    """The seed of scene `number` of a split: different for every (seed, split, number), number below 2**40."""
    return ((seed * len(SPLITS) + SPLITS.index(split)) << 40) + number


def write_dataset(
    folder: str | os.PathLike[str],
    train: int = 40,
    val: int = 8,
    test: int = 16,
    seed: int = 0,
    size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `folder`/images/*.png and per split that has scenes SPLIT.json (COCO, exact masks as compressed RLE).

    `train`, `val`, `test`: scenes per split; the kinds take turns, and no two scenes share a seed. `progress` is
    called with (scenes written, scenes in all). The folder appears whole or not at all. Returns its path. Raises
    `ResamError` where it exists and is not empty, or cannot be written, or a number is out of range.
    """
    target = Path(folder)
    counts = dict(zip(SPLITS, (train, val, test)))
    if min(counts.values()) < 0 or train < 1 or seed < 0 or size < 64:
        raise ResamError(
            f"{target}: train {train}, val {val}, test {test}, seed {seed}, size {size}: "
            "expected at least one training scene, no negative number, and a size of 64 px or more"
        )
    _check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise ResamError(f"{target}: cannot write there ({error.strerror}); choose another folder") from None
    try:
        (temporary / "images").mkdir()
        written, total = 0, sum(counts.values())
        for split, count in counts.items():
            if not count:
                continue  # a split without scenes has no file: a COCO file without images is an error to its readers
            document = _document(split, seed, size)
            for number in range(count):
                scene = generate_scene(scene_seed(seed, split, number), size, KINDS[number % len(KINDS)])
                name = f"{split}_{number:05d}_{scene.kind}.png"
                _write_image(temporary / "images" / name, scene)
                _record(document, name, scene)
                written += 1
                if progress is not None:
                    progress(written, total)
            (temporary / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes folders private
        _check_free(target)
        if target.is_dir():
            target.rmdir()  # empty: a rename onto it fails on some systems
        temporary.replace(target)
    except OSError as error:
        raise ResamError(f"{target}: cannot write ({error.strerror}); make room or choose another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _check_free(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise ResamError(f"{target}: exists and is not an empty folder; remove it or choose another")


def _document(split: str, seed: int, size: int) -> dict[str, Any]:
    info = {
        "description": f"resam synthetic scenes, {split} split",
        "version": str(VERSION),
        "generator": "resam.synthetic",
        "generator_version": VERSION,
        "seed": seed,
        "size": size,
        "split": split,
    }
    categories = [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(CATEGORIES, start=1)]
    return {"info": info, "licenses": [], "images": [], "annotations": [], "categories": categories}


def _write_image(path: Path, scene: SyntheticScene) -> None:
    done, data = cv2.imencode(".png", scene.image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ResamError(f"{path}: OpenCV could not encode the image; check its installation")
    path.write_bytes(data.tobytes())


def _record(document: dict[str, Any], name: str, scene: SyntheticScene) -> None:
    """Append the scene and its instances to a COCO document."""
    height, width = scene.image.shape[:2]
    image_id = len(document["images"]) + 1
    document["images"].append({"id": image_id, "file_name": name, "width": width, "height": height, "kind": scene.kind})
    for (x, y, mask), category in zip(scene.masks, scene.categories):
        document["annotations"].append(
            {
                "id": len(document["annotations"]) + 1,
                "image_id": image_id,
                "category_id": CATEGORIES.index(category) + 1,
                "segmentation": encode_rle(mask, (x, y), (height, width)),
                "area": int(mask.sum()),
                "bbox": [x, y, int(mask.shape[1]), int(mask.shape[0])],
                "iscrowd": 0,
            }
        )
