"""Where a run's data lie: a data folder, single annotation files, a points file with its images, or synthetic scenes
that the run makes itself.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resam.data.coco import CocoData, find_splits, scenes_of_points
from resam.training.progress import Reporter
from resam.training.run_data import RunData
from resam_runtime.common.errors import ResamError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SYNTHETIC = "synthetic"  # the folder, in the run's, of scenes that the run made
SYNTHETIC_SEED = 7
SYNTHETIC_SCENES, VAL_SCENES, TEST_SCENES = 24, 8, 20


@dataclass(frozen=True)
class Sources:
    """Paths as text, "" for none. scenes: of the synthetic training set, 0 where there are data."""

    train: str = ""
    val: str = ""
    test: str = ""
    images: str = ""
    train_images: str = ""  # of the training annotations alone, where these lie elsewhere than their data folder
    points_file: str = ""
    keypoints: bool = False
    scenes: int = 0

    @classmethod
    def choose(
        cls,
        data: Path | None,
        annotations: Path | None,
        images: Path | None,
        test: Path | None,
        points_file: Path | None,
        keypoints: bool,
        scenes: int | None,
    ) -> Sources:
        """From the command's arguments; `ResamError` for a folder without a training split, points without images, and
        arguments that would do nothing."""
        if scenes is not None and scenes < 1:
            raise ResamError(f"--scenes: expected at least 1, got {scenes}")
        if points_file and not (data or annotations or images):
            raise ResamError(f"{points_file}: give the folder of its scenes with --images")
        if keypoints and points_file:
            raise ResamError("--keypoints and --points-file each say where the points are; leave one out")
        found = find_splits(data, training=annotations is None) if data else {}
        beside: Path | None = None
        if annotations:
            found["train"] = annotations
            if data and images is None and (data / "images").is_dir():
                beside = data / "images"
        own = "train" in found or points_file is not None
        given = {"--test": test, "--images": images, "--keypoints": keypoints}
        idle = [name for name, value in given.items() if value and not own]
        if idle:
            raise ResamError(f"{idle[0]} needs --data or --annotations")
        if scenes is not None and own:
            raise ResamError("--scenes is only for synthetic scenes; leave it out")
        if test:
            found["test"] = test
        paths = {split: str(path.resolve()) for split, path in found.items() if path}
        return cls(
            **paths,
            images=str(images.resolve()) if images else "",
            train_images=str(beside.resolve()) if beside else "",
            points_file=str(points_file.resolve()) if points_file else "",
            keypoints=keypoints,
            scenes=0 if own else scenes or SYNTHETIC_SCENES,
        )

    @classmethod
    def read(cls, config: Path) -> Sources:
        """From a run's `config.toml`."""
        try:
            return cls(**tomllib.loads(config.read_text("utf-8"))["data"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ResamError(f"{config}: does not say where its data is ({error}); start a new run") from None

    @property
    def name(self) -> str:
        """A short name for a run."""
        return SYNTHETIC if self.scenes else Path(self.train).parent.name if self.train else Path(self.images).name

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `read` takes them."""
        return asdict(self)

    def prepare(self, folder: Path, reporter: Reporter) -> None:
        """Make the synthetic scenes, unless they are there. `ResamError` where there are others."""
        if not self.scenes:
            return
        if (folder / SYNTHETIC / "test.json").is_file():
            made = len(CocoData.open(folder / SYNTHETIC / "train.json").scenes)
            if made != self.scenes:
                raise ResamError(f"{folder}: holds {made} synthetic scenes, not {self.scenes}; choose another --output")
            return
        from resam.synthetic import write_dataset

        reporter.start("synthetic scenes", self.scenes + VAL_SCENES + TEST_SCENES)
        write_dataset(
            folder / SYNTHETIC,
            train=self.scenes,
            val=VAL_SCENES,
            test=TEST_SCENES,
            seed=SYNTHETIC_SEED,
            progress=lambda done, total: reporter.step(),
        )
        reporter.note(f"made {self.scenes} synthetic scenes to train on and {TEST_SCENES} to test on")

    def open(self, folder: Path) -> RunData:
        """Read the annotation files. `ResamError` for one that will not do."""
        files = {"train": self.train, "val": self.val, "test": self.test}
        if self.scenes:
            files = {split: str(path) for split, path in find_splits(folder / SYNTHETIC).items()}
        folders = {"train": self.images or self.train_images}
        opened = {
            split: CocoData.open(path, folders.get(split, self.images) or None) for split, path in files.items() if path
        }
        test = opened.get("test")
        train = opened["train"] if "train" in opened else scenes_of_points(self.points_file, self.images)
        return RunData(
            train=train,
            watched=opened.get("val") or test,
            tested=test or opened.get("val"),
            points_file=Path(self.points_file) if self.points_file else None,
            keypoints=self.keypoints,
        )
