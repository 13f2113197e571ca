"""Bases are recognised by their shapes; LoRA is a parametrization that merges without a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resam.encoders import ARCHITECTURES, ENCODERS
from resam.encoders.low_rank import project
from resam.model.bases import Base, load_base
from resam.model.encoder import ImageEncoder
from resam.model.lora import add_lora, load_lora, lora_state, merge_lora
from resam.model.sam import build_sam
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.letterbox import PAD_VALUE

from .conftest import TOY


@pytest.mark.parametrize("name", ["tiny", "vit_b", "vit_l", "vit_h"])
def test_the_type_of_a_sam_is_read_from_its_shapes(name: str) -> None:
    with torch.device("meta"):  # ViT-H has 640 M parameters
        state = build_sam(ARCHITECTURES[name]).state_dict()
    assert ENCODERS["vit"].architecture(state) == ARCHITECTURES[name]


def test_a_checkpoint_loads_whatever_its_format(toy: Base, tmp_path: Path) -> None:
    state = toy.sam.state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "b.safetensors")
    for file in ("a.pth", "b.safetensors"):
        base = load_base(tmp_path / file)
        assert base.architecture == TOY
        assert base.name == file[0]
        assert all(torch.equal(value, state[name]) for name, value in base.sam.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"# a page\n", b"PK\x03\x04 half", b"\x80\x02broken"])
def test_what_torch_cannot_read_is_called_that_and_nothing_more(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_bytes(content)
    with pytest.raises(ResamError) as caught:
        load_base(path)
    assert str(caught.value).startswith(f"{path}: not a checkpoint that torch can read; give one of SAM, such as ")
    assert "eights" not in str(caught.value).replace(str(path), "")  # torch's advice, cut off, is no help
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x80\x02broken")
    with pytest.raises(ResamError, match=r"broken.*: not a "):
        load_base(path)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"image_encoder.pos_embed": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ResamError, match="read safely"):
        load_base(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_missing_and_foreign_keys_are_named(toy: Base, tmp_path: Path) -> None:
    state = toy.sam.state_dict()
    del state["mask_decoder.iou_token.weight"]
    state["mask_decoder.hq_token.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "hq.pth")
    with pytest.raises(ResamError, match=r"missing: mask_decoder\.iou_token.*foreign: mask_decoder\.hq_token"):
        load_base(tmp_path / "hq.pth")


def test_every_family_pads_as_the_runtime_does() -> None:
    for family in ENCODERS.values():
        assert tuple(round(value) for value in family.pixel_mean) == PAD_VALUE


def test_another_network_is_no_sam(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ResamError, match="not a checkpoint of SAM"):
        load_base(tmp_path / "other.pth")


def test_an_absent_base_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ResamError, match=r"nowhere\.pth: no such base"):
        load_base(tmp_path / "nowhere.pth")


def _shake(encoder: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_lora_starts_as_the_base_and_leaves_keys_alone(toy: Base) -> None:
    image = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8)
    encoder = ImageEncoder(toy.sam)
    with torch.no_grad():
        before = encoder(image)
        add_lora(toy.sam.image_encoder, rank=2, start=1)
        assert torch.equal(encoder(image), before)
    trainable = [name for name, parameter in toy.sam.image_encoder.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 4
    assert all("blocks.1." in name for name in trainable)


def test_only_queries_and_values_change(toy: Base) -> None:
    qkv = toy.sam.image_encoder.blocks[0].attn.qkv
    before = qkv.weight.detach().clone()
    add_lora(toy.sam.image_encoder)
    _shake(toy.sam.image_encoder)
    change = (qkv.weight - before).detach().reshape(3, 32, 32)
    assert torch.equal(change[1], torch.zeros(32, 32))
    for part in (change[0], change[2]):
        assert torch.linalg.matrix_rank(part, atol=1e-4) == 4


def test_merged_lora_equals_unmerged_and_is_a_plain_sam(toy: Base) -> None:
    keys = toy.sam.state_dict().keys()
    encoder = ImageEncoder(toy.sam)
    add_lora(toy.sam.image_encoder, rank=3)
    _shake(toy.sam.image_encoder)
    image = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        apart = encoder(image)
        merge_lora(toy.sam.image_encoder)
        assert torch.equal(encoder(image), apart)
    assert toy.sam.state_dict().keys() == keys
    build_sam(replace(TOY)).load_state_dict(toy.sam.state_dict())


def test_factors_get_the_gradient_of_the_whole_weight(toy: Base) -> None:
    qkv = toy.sam.image_encoder.blocks[0].attn.qkv
    add_lora(toy.sam.image_encoder, rank=3)
    factors = dict(lora_state(toy.sam.image_encoder))
    with torch.no_grad():
        for value in factors.values():
            value.normal_()
    parameters = list(qkv.parametrizations.weight[0].parameters())
    tokens = torch.randn(2, 5, 7, qkv.in_features, requires_grad=True)
    above = torch.randn(2, 5, 7, qkv.out_features)
    wanted = torch.autograd.grad(qkv(tokens), [tokens, *parameters], above)  # autograd through the summed weight
    found = torch.autograd.grad(project(qkv, tokens), [tokens, *parameters], above)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        out = project(qkv, tokens)
    half = torch.autograd.grad(out, parameters, above.bfloat16())
    assert all(one.dtype == torch.float32 for one in half)
    for one, other in zip(half, wanted[1:], strict=True):
        assert torch.linalg.vector_norm(one - other) < 0.02 * torch.linalg.vector_norm(other)


def test_an_adapter_moves_to_another_copy(toy: Base) -> None:
    encoder = ImageEncoder(toy.sam)
    other_sam = build_sam(TOY)
    other_sam.load_state_dict(toy.sam.state_dict())
    add_lora(toy.sam.image_encoder, rank=2, start=1)
    _shake(toy.sam.image_encoder)
    load_lora(other_sam.image_encoder, lora_state(toy.sam.image_encoder))
    image = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(ImageEncoder(other_sam)(image), encoder(image))
    with pytest.raises(ValueError, match="do not fit"):
        load_lora(other_sam.image_encoder, {})


@pytest.mark.parametrize(("rank", "start"), [(0, 0), (33, 0), (4, 2), (4, -1)])
def test_lora_out_of_range_is_refused(toy: Base, rank: int, start: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        add_lora(toy.sam.image_encoder, rank, start)
