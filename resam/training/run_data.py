"""What a run learns from, is watched on and is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resam.data.coco import CocoData
from resam.training.options import TrainOptions
from resam.training.progress import Reporter
from resam_runtime.common.files import sha256_file


@dataclass(frozen=True)
class RunData:
    """The splits of a data set. points_file, keypoints: where the training points come from instead of the masks.

    watched: measured after each epoch on a few scenes; tested: measured whole, before and after.
    """

    train: CocoData
    watched: CocoData | None = None
    tested: CocoData | None = None
    points_file: Path | None = None
    keypoints: bool = False

    def points(self, options: TrainOptions) -> str:
        """In words, where the training points come from."""
        if self.points_file:
            return f"points of {self.points_file.name}"
        if self.keypoints:
            return "keypoints"
        return f"{options.points} point{'s' * (options.points != 1)} per instance"

    def digests(self) -> dict[str, str | None]:
        """SHA-256 of the annotation files by split; "points": that of the points file, else "keypoints" or "masks"."""
        splits = {"train": self.train, "watched": self.watched, "tested": self.tested}
        digests = {name: split.digest if split is not None else None for name, split in splits.items()}
        file = self.points_file
        return digests | {"points": sha256_file(file) if file else "keypoints" if self.keypoints else "masks"}

    def check_images(self, reporter: Reporter) -> None:
        """`ResamError` for a damaged image now, not in the middle of a night."""
        splits = {id(split): split for split in (self.train, self.watched, self.tested) if split is not None}
        scenes = [scene for split in splits.values() for scene in split.scenes]
        reporter.start("checking images", len(scenes))
        for scene in scenes:
            scene.check()
            reporter.step()
