"""The prompter taught together with the adapter: what its loss looks at, and whom it reaches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.model.prompter import Prompter, box_corners
from resam.training.checkpoints import Adapter
from resam.training.losses import LOSSES
from resam.training.losses.term import TileSeen
from resam.training.options import TrainOptions
from resam.training.prompter.embeddings import own_tiles
from resam.training.prompter.joint import JointTiles
from resam.training.run import run
from resam.training.run_data import RunData
from resam.training.tile import Pseudo, TileTensors, Wanted
from resam_runtime.tiles.letterbox import scene_to_tile
from resam_runtime.tiles.tiling import Framing, assign_points

LOSS = next(loss for loss in LOSSES if loss.name == "prompter")
JOINT = dataclasses.replace(TrainOptions(), prompter=True, prompter_joint=0.5)


def seen(toy: Base, embedding: torch.Tensor, owned: tuple[float, float, float, float]) -> TileSeen:
    """A tile of 64 px with one instance, from (8, 16) to (24, 40), and its click."""
    head = Prompter(32, 2, 64, 8)
    toy.sam.add_module("prompter", head)
    target = torch.zeros(1, 32, 32)
    target[0, 8:20, 4:12] = 1
    image = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    wanted = Wanted(torch.tensor([1]), owned)
    points = torch.tensor([[[15.0, 27.0]]]), torch.ones(1, 1, dtype=torch.int32)
    tile = TileTensors(image, image, *points, (32, 32), wanted=wanted)
    boxes = torch.tensor([[7.5, 15.5, 23.5, 39.5]])
    pseudo = Pseudo(target, torch.tensor([True]), boxes, torch.zeros(1, 32), None)
    return TileSeen(embedding, tile, pseudo, torch.zeros(0, 32), JOINT, toy.sam)


def test_the_loss_reaches_the_embedding_and_falls_when_the_head_is_right(toy: Base) -> None:
    torch.manual_seed(0)
    embedding = torch.randn(1, 32, 8, 8, requires_grad=True)
    tile = seen(toy, embedding, (-1.0, -1.0, 64.0, 64.0))
    before = LOSS.value(tile)
    before.backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().sum() > 0
    head = toy.sam.prompter
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        LOSS.value(tile).backward()
        optimizer.step()
    with torch.no_grad():
        heat, distances = head(embedding)
    assert LOSS.value(tile) < 0.2 * before
    number, row, column = np.unravel_index(int(heat[0].argmax()), heat[0].shape)
    assert number == 1
    x, y = 4 * column + 1.5, 4 * row + 1.5
    assert abs(x - 15.5) <= 4
    assert abs(y - 27.5) <= 4
    corners = box_corners(distances, head.cell)[0, :, row - 1 : row + 2, column - 1 : column + 2]
    middle = corners.flatten(1).median(dim=1).values  # with few steps some cell is still far off
    np.testing.assert_allclose(middle.numpy(), [7.5, 15.5, 23.5, 39.5], atol=2.5)


def test_what_a_neighbour_owns_does_not_count(toy: Base) -> None:
    torch.manual_seed(0)
    embedding = torch.randn(1, 32, 8, 8)
    half = seen(toy, embedding, (-1.0, -1.0, 32.0, 64.0))
    head = toy.sam.prompter
    before = LOSS.value(half)

    def only_right(module: torch.nn.Module, inputs: object, output: tuple[torch.Tensor, torch.Tensor]) -> object:
        heat = output[0].clone()
        heat[..., 9:] = 6.0  # sure of instances everywhere there
        return heat, output[1]

    hook = head.register_forward_hook(only_right)
    assert torch.equal(LOSS.value(half), before)
    whole = dataclasses.replace(half.tile, wanted=Wanted(torch.tensor([1]), (-1.0, -1.0, 64.0, 64.0)))
    assert LOSS.value(dataclasses.replace(half, tile=whole)) > before + 10
    hook.remove()


@pytest.mark.parametrize("mirror", [(False, False), (True, False), (True, True)])
def test_a_tile_owns_what_the_engine_would_find_in_it(toy: Base, scenes: CocoData, mirror: tuple[bool, bool]) -> None:
    samples = TrainingSet(scenes, PointOptions(), toy.architecture, Framing(64, 0.8))
    joint = JointTiles(samples)
    rng = np.random.default_rng(0)
    several = 0
    for number, sample in enumerate(samples.samples):
        scene = scenes.scenes[sample.scene]
        tiles = own_tiles(scene, 64, samples.framing)
        several += len(tiles) > 1
        points = rng.uniform((sample.tile.x, sample.tile.y), (sample.tile.x + 70, sample.tile.y + 70), (200, 2))
        points = points.clip(0, (scene.width - 1, scene.height - 1))
        points = points[(points < (sample.tile.x + sample.tile.width, sample.tile.y + sample.tile.height)).all(axis=1)]
        truly = assign_points(tiles, points) == tiles.index(sample.tile)
        x, y = scene_to_tile(points, sample.tile.scale, sample.tile.origin).T
        if mirror[0]:
            x = sample.tile.width * sample.tile.scale - 1 - x
        if mirror[1]:
            y = sample.tile.height * sample.tile.scale - 1 - y
        wanted = joint.wanted(number, mirror, torch.device("cpu"))
        x0, y0, x1, y1 = wanted.owned
        np.testing.assert_array_equal((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1), truly)
        assert len(wanted.classes) == len(sample.prompts)
    assert several


def test_a_joint_run_moves_the_adapter_and_a_finished_one_stays(
    base_file: Path, scenes: CocoData, tmp_path: Path
) -> None:
    plain = dataclasses.replace(
        TrainOptions(), base=str(base_file), epochs=1, rank=2, ssa="off", prompter=True, prompter_steps=2
    )
    joint, data = dataclasses.replace(plain, prompter_joint=1.0), RunData(scenes)
    results = [
        run(tmp_path / name, options, data, watched=0, record={}) for name, options in (("p", plain), ("j", joint))
    ]
    assert [result.history[0]["prompter"] > 0 for result in results] == [False, True]
    alone, together = (Adapter.open(result.adapter).state for result in results)
    assert alone.keys() == together.keys()
    moved = [name for name in alone if name.startswith("blocks.") and not torch.equal(alone[name], together[name])]
    assert moved
    before = results[1].adapter.read_bytes()
    run(tmp_path / "j", joint, data, watched=0, resume=True)
    assert results[1].adapter.read_bytes() == before
