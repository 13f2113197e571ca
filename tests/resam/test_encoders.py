"""Encoders other than SAM's ViT: the published checkpoints load and compute what their authors' code computes; LoRA
goes where it should, and training leaves batch norm alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything.modeling import PromptEncoder
from torch import nn

from resam.data.coco import CocoData
from resam.encoders import ARCHITECTURES, ENCODERS, family_of
from resam.model.bases import load_base, published_names
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.lora import add_lora, lora_state, merge_lora
from resam.model.refine_requery import RefineRequery
from resam.model.sam import build_sam
from resam.training.checkpoints import Adapter, load_adapted
from resam.training.options import TrainOptions
from resam.training.run import run
from resam.training.run_data import RunData
from resam_runtime.common.errors import ResamError

from .families import TOYS, a_tile, published_state, relative_error, shaken, write_checkpoint
from .published import efficientvit_embedding, efficientvit_shapes, mobile_sam_embedding, mobile_sam_shapes

PUBLISHED: dict[str, Callable[..., torch.Tensor]] = {
    "tiny_vit": mobile_sam_embedding,
    "efficientvit": efficientvit_embedding,
}
FAMILIES = pytest.mark.parametrize("family", TOYS)


pytestmark = pytest.mark.usefixtures("one_thread")


def check_against_published(architecture: Any) -> None:
    base = shaken(architecture)
    encoder, tile = ImageEncoder(base.sam), a_tile(architecture.image_size)
    pixels = (tile.permute(0, 3, 1, 2).float() - encoder.pixel_mean) / encoder.pixel_std
    with torch.no_grad():
        wanted = PUBLISHED[architecture.family](published_state(base), pixels)
        assert wanted.shape == (1, architecture.embedding_dim, architecture.grid, architecture.grid)
        assert relative_error(encoder(tile), wanted) < 1e-5
        for fold in (False, True):
            assert relative_error(encoder.graph(fold).eval()(tile), wanted) < 1e-5


@FAMILIES
def test_an_encoder_computes_what_its_authors_published(family: str) -> None:
    check_against_published(TOYS[family])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobile_sam", "efficientvit_sam_l0", "efficientvit_sam_l1"])
def test_so_it_does_at_its_true_size(name: str) -> None:
    check_against_published(ARCHITECTURES[name])


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("mobile_sam", mobile_sam_shapes()),
        ("efficientvit_sam_l0", efficientvit_shapes((1, 1, 1, 4, 4), 4)),
        ("efficientvit_sam_l1", efficientvit_shapes((1, 1, 1, 6, 6), 8)),
        ("efficientvit_sam_l2", efficientvit_shapes((1, 2, 2, 8, 8), 12)),
    ],
)
def test_a_published_checkpoint_holds_these_tensors(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        sam = build_sam(architecture)
    names, state = published_names(sam), sam.state_dict()
    mine = {published: tuple(state[key].shape) for key, published in names.items()}
    assert {key: shape for key, shape in mine.items() if key.startswith("image_encoder.")} == shapes
    published = {key: torch.empty(shape, device="meta") for key, shape in mine.items()}
    (family,) = [family for family in ENCODERS.values() if family.recognises(published)]
    assert family.architecture(published) == architecture


@FAMILIES
def test_a_checkpoint_loads_under_its_published_names(family: str, tmp_path: Path) -> None:
    base = shaken(TOYS[family])
    loaded = load_base(write_checkpoint(base, tmp_path / "toy.safetensors"))
    assert loaded.architecture == TOYS[family]
    for key, value in base.sam.state_dict().items():
        assert torch.equal(loaded.sam.state_dict()[key], value), key


def test_the_published_size_is_taken_where_a_file_does_not_tell(tmp_path: Path) -> None:
    for family, extra in (("tiny_vit", {"image_encoder.head.weight": torch.zeros(10, 32)}), ("efficientvit", {})):
        state = {**published_state(shaken(TOYS[family])), **extra}  # MobileSAM's file still has its classifier
        torch.save({"state_dict": state}, tmp_path / "toy.pt")
        loaded = load_base(tmp_path / "toy.pt")
        assert loaded.architecture == replace(TOYS[family], image_size={"tiny_vit": 1024, "efficientvit": 512}[family])
        assert loaded.fit_within == {"tiny_vit": 2048, "efficientvit": 1024}[family]


def test_what_is_missing_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    state = published_state(shaken(TOYS["tiny_vit"]))
    del state["image_encoder.layers.1.blocks.0.local_conv.bn.bias"]
    torch.save(state, tmp_path / "toy.pt")
    with pytest.raises(ResamError, match=r"1 missing: image_encoder\.layers\.1\.blocks\.0\.local_conv\.bn\.bias\)"):
        load_base(tmp_path / "toy.pt")


def test_an_efficientvit_of_six_stages_is_refused(tmp_path: Path) -> None:
    state = published_state(shaken(TOYS["efficientvit"]))
    state["image_encoder.backbone.stages.5.op_list.0.main.point_conv.conv.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "xl0.pt")
    with pytest.raises(ResamError, match=r"xl0\.pt: .*XL0 and XL1"):
        load_base(tmp_path / "xl0.pt")


@FAMILIES
def test_lora_changes_queries_and_values_of_every_head_alone(family: str) -> None:
    base = shaken(TOYS[family])
    encoder = base.sam.image_encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    places = family_of(encoder).qkv(encoder)
    parameters = add_lora(encoder, rank=2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_()
        apart = ImageEncoder(base.sam)(a_tile(64))
        merge_lora(encoder)
        assert relative_error(ImageEncoder(base.sam)(a_tile(64)), apart) < 1e-6
    assert encoder.state_dict().keys() == before.keys()
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert len(changed) == len(places)
    assert all("qkv" in name and name.endswith("weight") for name in changed)
    for name in changed:
        (heads,) = {place.groups for place in places if place.layer.weight is encoder.get_parameter(name)}
        change = (encoder.state_dict()[name] - before[name]).reshape(heads, 3, -1)
        assert (change[:, 1] == 0).all()
        assert (change[:, [0, 2]].abs().amax(dim=-1) > 0).all()


@FAMILIES
def test_batch_norm_keeps_its_statistics_in_training(family: str) -> None:
    base = shaken(TOYS[family])
    encoder = ImageEncoder(base.sam)
    with torch.no_grad():
        before, wanted = copy.deepcopy(encoder.state_dict()), encoder(a_tile(64))
    encoder.train()
    assert torch.allclose(encoder(a_tile(64)), wanted, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@FAMILIES
def test_a_run_adapts_it_resumes_and_merges(family: str, scenes_folder: Path, tmp_path: Path) -> None:
    base = shaken(TOYS[family])
    with torch.no_grad():  # so that there are masks to learn from
        base.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(30)
    file = write_checkpoint(base, tmp_path / "toy.safetensors")
    options = TrainOptions(epochs=2, base=str(file), rank=2, start=1, learning_rate=0.01, warmup=0, supervised=True)
    data = RunData(CocoData.open(scenes_folder / "train.json"))
    run(tmp_path / "run", options, data)
    plain, (merged, adapter) = load_base(file), load_adapted(tmp_path / "run", file)
    (tmp_path / "run" / "checkpoints" / "epoch-0002.pt").unlink()
    run(tmp_path / "run", options, data, resume=True)  # the second epoch once more
    again = Adapter.open(tmp_path / "run")
    assert all(torch.equal(again.state[name], value) for name, value in adapter.state.items())
    assert {name.split(".")[1] for name in adapter.state} == {
        str(number) for number in range(1, len(family_of(plain.sam.image_encoder).qkv(plain.sam.image_encoder)))
    }
    state = plain.sam.state_dict()
    changed = [name for name, value in merged.sam.state_dict().items() if not torch.equal(value, state[name])]
    assert len(changed) == len(adapter.state) // 4
    assert all("qkv" in name for name in changed)
    assert merged.architecture == TOYS[family]


def test_a_step_of_training_runs_in_bfloat16() -> None:
    for architecture in TOYS.values():
        base = shaken(architecture)
        parameters = add_lora(base.sam.image_encoder, rank=2)
        with torch.autocast("cpu", torch.bfloat16):
            ImageEncoder(base.sam)(a_tile(64)).float().square().mean().backward()
        assert all(parameter.grad is not None for parameter in parameters)
        assert any(float(parameter.grad.abs().sum()) > 0 for parameter in parameters)  # type: ignore[union-attr]
        assert len(lora_state(base.sam.image_encoder)) == len(parameters)


def test_prompts_of_efficientvit_sam_lie_where_its_own_frame_has_them() -> None:
    """Published: points in a frame of 1024 px over the 512 px that the encoder sees, half a pixel added to each."""
    architecture = ARCHITECTURES["efficientvit_sam_l0"]
    decoder = PromptDecoder(_without_encoder(architecture))
    published = PromptEncoder(256, (64, 64), (1024, 1024), 16)
    published.load_state_dict(decoder.prompt_encoder.state_dict())
    frame = torch.tensor([[[0.0, 1023.0]], [[511.5, 3.25]], [[700.0, 20.0]]])  # pixel centres at integers
    tile = (frame + 0.5) / 2 - 0.5  # the same places, in pixels twice as large
    labels = torch.ones(3, 1, dtype=torch.int)
    with torch.no_grad():
        wanted, _ = published(points=(frame, labels), boxes=None, masks=None)
        found, _ = decoder._tokens(tile, labels)
        assert torch.allclose(found[:, -2], wanted[:, 0], atol=1e-5)
        assert torch.allclose(decoder.positions(), published.get_dense_pe(), atol=1e-6)
    assert (architecture.grid, architecture.mask_size, architecture.stride) == (64, 256, 8)
    assert RefineRequery(decoder).decoder.image_size / architecture.mask_size == 2  # tile pixels a cell of the mask


def test_the_decoder_of_efficientvit_sam_has_its_own_epsilon() -> None:
    for name, wanted in (("efficientvit_sam_l0", 1e-6), ("vit_b", 1e-5), ("mobile_sam", 1e-5)):
        sam = _without_encoder(ARCHITECTURES[name])
        norms = [part.eps for part in sam.mask_decoder.modules() if isinstance(part, nn.LayerNorm)]
        assert norms
        assert set(norms) == {wanted}


def _without_encoder(architecture: Any) -> Any:
    """A SAM whose encoder, which would take long to make, is a toy's but for its size."""
    toy = {**TOYS, "vit": replace(ARCHITECTURES["tiny"], image_size=1024, patch_size=16)}[architecture.family]
    return build_sam(replace(toy, image_size=architecture.image_size, embedding_dim=256, decoder_heads=8))
