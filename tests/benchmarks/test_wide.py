"""The stand-in for an adapted MobileSAM computes what the base does that it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from resam.encoders import ENCODERS
from resam.model.bases import load_base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.sam import build_sam
from resam_benchmarks import wide


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    result = CliRunner().invoke(wide.main, [str(path)])
    assert result.exit_code == 0, result.output
    return path


def test_it_answers_prompts_as_its_base_does(stand_in: Path) -> None:
    tiny, found = load_base("tiny"), load_base(stand_in)
    as_large = build_sam(replace(tiny.architecture, image_size=512))  # the base's decoder, for 64 x 64 tokens
    for part in ("prompt_encoder", "mask_decoder"):
        getattr(as_large, part).load_state_dict(getattr(tiny.sam, part).state_dict())
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, 128, 64, 64, generator=generator)
    coords = torch.rand(4, 2, 2, generator=generator) * 512
    labels = torch.tensor([[1, -1], [1, 0], [2, 3], [1, 1]])
    with torch.no_grad():
        wanted = PromptDecoder(as_large).every_mask(embedding, coords, labels)
        mine = PromptDecoder(found.sam).every_mask(embedding[:, wide.twice(128)], 2 * coords + 0.5, labels)
    for ours, theirs in zip(mine, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


def test_it_has_the_decoder_of_mobile_sam_and_a_base_s_encoder_on_a_larger_tile(stand_in: Path) -> None:
    found = load_base(stand_in)
    published = next(family.known["mobile_sam"] for family in ENCODERS.values() if "mobile_sam" in family.known)
    for name in (
        "embedding_dim",
        "decoder_heads",
        "decoder_mlp_dim",
        "iou_hidden_dim",
        "multimask_outputs",
        "grid",
        "image_size",
    ):
        assert getattr(found.architecture, name) == getattr(published, name), name
    image = torch.randint(0, 256, (1, 512, 512, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedding = ImageEncoder(found.sam)(image.repeat_interleave(2, 1).repeat_interleave(2, 2))
        tile = ImageEncoder(load_base("tiny").sam)(image[:, 256:, :256])
    twins = [torch.equal(embedding[:, a], embedding[:, b]) for a, b in ((0, 64), (128, 192), (0, 128))]
    assert twins == [True, True, False]
    alike = torch.nn.functional.cosine_similarity(
        embedding[:, wide.twice(128).argsort(stable=True)[::2], 32:, :32], tile, dim=1
    )
    assert float(alike.mean()) > 0.8, "as one of four tiles sees it, but for what is beyond its borders"
