"""What is trained beside queries and values, and that adapter, merge and the loop carry it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions
from resam.data.training_set import TrainingSet
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.parts import adapter_state, add_parts, load_adapter, merge_adapter
from resam.model.refine_requery import RefineRequery
from resam.training.aside import Agreement, judge, measure_aside
from resam.training.devices import make_fabric
from resam.training.losses.alignment import box_embeddings, paired_loss
from resam.training.options import TrainOptions
from resam.training.step import pseudo_masks, reinforce
from resam.training.tile import Pseudo
from resam.training.trainer import Trainer
from resam_runtime.tiles.tiling import Framing

from .conftest import TOY
from .test_step import _models, _tile, _weights

EVERYTHING = TrainOptions(rank=2, layers="all", decoder_rank=2, ssa="off")


def _shaken(base: Base) -> Base:
    """The base with all parts, each of which does something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for group in add_parts(base.sam, EVERYTHING):
            for parameter in group.parameters:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    return base


def _loop(base: Base) -> list[torch.Tensor]:
    tile = _tile()
    with torch.no_grad():
        return list(RefineRequery(PromptDecoder(base.sam))(ImageEncoder(base.sam)(tile.weak), tile.coords, tile.labels))


def test_every_part_reaches_the_masks_and_merges_without_a_trace(toy: Base) -> None:
    keys, before = toy.sam.state_dict().keys(), _loop(toy)
    other = dataclasses.replace(toy, sam=copy.deepcopy(toy.sam))
    adapted = _loop(_shaken(toy))
    assert not torch.allclose(before[0], adapted[0], atol=1e-2)
    state = {name: value.clone() for name, value in adapter_state(toy.sam).items()}
    assert {"blocks.0.key_up", "image_encoder.blocks.1.mlp.lin1.down"} <= state.keys()
    assert "mask_decoder.output_upscaling.0.up" in state
    load_adapter(other.sam, state)
    for base in (toy, other):
        merge_adapter(base.sam)
        assert base.sam.state_dict().keys() == keys
        for one, merged in zip(adapted, _loop(base)):
            torch.testing.assert_close(one, merged, rtol=1e-3, atol=1e-4)


def test_an_adapter_of_no_part_is_refused(toy: Base) -> None:
    with pytest.raises(ValueError, match="tensors of no part"):
        load_adapter(toy.sam, {"neck.down": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="holds no tensors"):
        load_adapter(toy.sam, {})


def test_each_part_is_trained_at_its_own_rate(toy: Base, scenes: CocoData) -> None:
    samples = TrainingSet(scenes, PointOptions(), TOY, Framing(64), supervised=True)
    options = dataclasses.replace(EVERYTHING, decoder_rate=0.25, epochs=1, weight_decay=0.0, average=0.0)
    trainer = Trainer(toy, samples, options, make_fabric(1, "cpu"))
    before = {name: value.clone() for name, value in adapter_state(toy.sam).items()}
    frozen = {name: value.clone() for name, value in toy.sam.state_dict().items() if "parametrizations" not in name}
    trainer.run_epoch()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates[1] == pytest.approx(0.25 * rates[0])
    after = adapter_state(toy.sam)
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"blocks", "image_encoder", "mask_decoder"}
    for name, value in frozen.items():
        assert torch.equal(toy.sam.state_dict()[name], value), name


def test_paired_alignment_compares_each_instance_with_itself_alone(toy: Base) -> None:
    encoder, decoder, loop = _models(toy)
    tile, boxes = _tile(), torch.tensor([[4.0, 4.0, 40.0, 30.0]] * 5)
    with torch.no_grad():
        weak, strong = (box_embeddings(encoder(view), boxes, 64) for view in (tile.weak, tile.strong))
    found = pseudo_masks(encoder, loop, tile)
    pseudo = Pseudo(found.target, torch.ones(5, dtype=torch.bool), boxes, weak, found.output)
    queue = torch.nn.functional.normalize(torch.randn(7, 2, 32), dim=2).flatten(1)
    options = TrainOptions(ssa="paired")
    losses = reinforce(encoder, decoder, tile, pseudo, _weights(1.0), queue, options)
    pairs = [1 - float(s @ h) for s, h in zip(weak, strong)] + [
        1 - float(s @ h) for s, h in queue.unflatten(1, (2, -1))
    ]
    assert losses.values["alignment"] == pytest.approx(sum(pairs) / len(pairs), rel=1e-4)
    assert torch.allclose(losses.remembered, torch.cat((weak, strong), 1), atol=1e-5)
    assert paired_loss(strong[:0], weak[:0], queue[:0]) == 0


def test_no_requery_makes_the_coarse_mask_the_final_one(toy: Base) -> None:
    encoder, tile = ImageEncoder(toy.sam), _tile()
    with torch.no_grad():
        embedding = encoder(tile.weak)
        out = RefineRequery(PromptDecoder(toy.sam), requery="none")(embedding, tile.coords, tile.labels)
        usual = RefineRequery(PromptDecoder(toy.sam))(embedding, tile.coords, tile.labels)
    assert torch.equal(out.masks, usual.coarse_masks)
    assert torch.equal(out.scores, usual.coarse_scores)
    assert torch.equal(out.boxes, usual.boxes)


def test_a_taught_requery_asks_with_the_students_box_where_it_shall(toy: Base) -> None:
    encoder, decoder, loop = _models(toy)
    tile = _tile()
    found = pseudo_masks(encoder, loop, tile)
    pseudo = Pseudo(
        found.target, torch.ones(5, dtype=torch.bool), torch.zeros(5, 4) + 7, found.embeddings, found.output
    )
    asked: list[torch.Tensor] = []
    real = loop.prompts

    def prompts(boxes: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(boxes)
        return real(boxes, *rest)

    loop.prompts = prompts  # type: ignore[method-assign]
    own = torch.tensor([True, False, True, False, True])
    tile = dataclasses.replace(tile, own=own)
    reinforce(encoder, decoder, tile, pseudo, _weights(0.0), torch.zeros(0, 32), TrainOptions(chunk=2), requery=loop)
    with torch.no_grad():
        student = RefineRequery(decoder)(encoder(tile.strong), tile.coords, tile.labels).boxes
    boxes = torch.cat(asked)
    drawn = own & (student[:, 2] > student[:, 0])
    assert torch.allclose(boxes[drawn], student[drawn], atol=1e-3)
    assert (boxes[~drawn] == 7).all()


def test_what_was_set_aside_is_not_trained_on_and_tells_of_harm(toy: Base, scenes: CocoData) -> None:
    many = dataclasses.replace(scenes, scenes=scenes.scenes * 3)
    whole = TrainingSet(many, PointOptions(), TOY, Framing(64))
    samples = TrainingSet(many, PointOptions(), TOY, Framing(64), aside=0.2)
    aside = {sample.scene for sample in samples.set_aside}
    assert len(aside) == 2
    assert not aside & {sample.scene for sample in samples.samples}
    assert len(samples) + len(samples.set_aside) == len(whole)
    trainer = Trainer(toy, samples, TrainOptions(rank=2), make_fabric(1, "cpu"))
    found = measure_aside(trainer)
    assert found is not None
    assert 0 <= found.final <= 1
    assert found.instances > 0
    assert judge(Agreement(0.5, 0.6, 9), Agreement(0.5, 0.6, 9)) == []
    worse, needless = judge(Agreement(0.6, 0.6, 9), Agreement(0.6, 0.5, 9))
    assert worse.startswith(
        "probably worse than the base: on 9 clicks set aside its views agree to 0.500, the base's to 0.600"
    )
    assert "requery=none" in needless
