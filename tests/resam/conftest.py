"""A SAM of toy size and a small data set of synthetic scenes, for the tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from resam.data.coco import CocoData
from resam.encoders.vit import VitArchitecture
from resam.model.bases import Base
from resam.synthetic import write_dataset

from .families import shaken, with_masks

TOY = VitArchitecture(
    image_size=64, patch_size=8, encoder_dim=32, encoder_depth=2, encoder_heads=2, global_blocks=(1,), window_size=4,
    embedding_dim=32, decoder_heads=1, decoder_mlp_dim=32, multimask_outputs=0, iou_hidden_dim=16,
)  # fmt: skip


@pytest.fixture
def toy() -> Base:
    """A fresh toy base with random weights; no tensor is zero, so that nothing is equal by accident."""
    return shaken(TOY)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes with one thread, so that results are the same to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO data set of synthetic scenes of 96 px: four to train on, one to watch, two to test on. Few instances."""
    return write_dataset(tmp_path_factory.mktemp("scenes") / "set", train=4, val=1, test=2, seed=28, size=96)


@pytest.fixture(scope="session")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller one, for tests of several whole runs: two to train on, one to watch, one to test on."""
    return write_dataset(tmp_path_factory.mktemp("scenes") / "set", train=2, val=1, test=1, seed=28, size=96)


@pytest.fixture
def scenes(scenes_folder: Path) -> CocoData:
    return CocoData.open(scenes_folder / "train.json")


@pytest.fixture
def base_file(toy: Base, tmp_path: Path) -> Path:
    """The toy base as a checkpoint, with masks to learn from."""
    torch.save(with_masks(toy).sam.state_dict(), tmp_path / "toy.pth")
    return tmp_path / "toy.pth"
