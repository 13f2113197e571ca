"""Files of ours that are whole and hold something else: one line that names them, whatever stands there."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from resam.model.bases import Base, load_base
from resam.model.lora import add_lora, lora_state
from resam.training.checkpoints import (
    CHECKPOINT,
    PROVENANCE,
    Adapter,
    apply_adapter,
    describe_base,
    latest_checkpoint,
    load_adapted,
    write_adapter,
)
from resam.training.options import TrainOptions, write_options
from resam.training.report import write_report
from resam_runtime.common.checked import Malformed
from resam_runtime.common.errors import ResamError

from ..mutations import mutations


def one_line(error: ResamError, path: Path) -> None:
    assert str(path.name) in str(error) or "adapter" in str(error)
    assert "\n" not in str(error)


@pytest.fixture
def adapter(toy: Base) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of an adapter of the toy, and what it says of itself."""
    other = copy.deepcopy(toy.sam)
    add_lora(other.image_encoder, 2, 0)
    state = {name: value.clone() for name, value in lora_state(other.image_encoder).items()}
    return state, {"base": describe_base(toy), "options": TrainOptions().to_dict(), "metrics": {"tested": {}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"base": ["tiny"]}},
        {"options": [1]},
        {"base": {"name": 3, "sha256": "0"}},
        {"base": {"name": "x"}},
        {"base": "tiny"},
    ],
)
def test_an_adapter_that_says_something_else_is_refused(
    adapter: tuple[dict[str, torch.Tensor], dict[str, Any]], changes: dict[str, Any], tmp_path: Path
) -> None:
    state, provenance = adapter
    path = tmp_path / "a.safetensors"
    save_file(state, path, {"resam": json.dumps({**provenance, **changes})})
    with pytest.raises(ResamError, match=r"a\.safetensors: not an adapter of resam-train \(its metadata") as caught:
        load_adapted(path)
    one_line(caught.value, path)


def test_thousands_of_damaged_provenances_are_refused_or_of_the_right_kinds(
    adapter: tuple[dict[str, torch.Tensor], dict[str, Any]],
) -> None:
    taken = [found for damaged in mutations(adapter[1], 2000) if (found := taken_as(PROVENANCE, damaged)) is not None]
    assert 200 < len(taken) < 1950
    for found in taken:
        assert isinstance(found["base"]["sha256"], str)
        assert isinstance(found["options"]["base"], str | None)


def test_damaged_adapters_are_one_line(
    toy: Base, adapter: tuple[dict[str, torch.Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, provenance = adapter
    path, chance = tmp_path / "a.safetensors", random.Random(3)
    for said in mutations(provenance, 40):
        save_file(state, path, {"resam": json.dumps(said)})
        with contextlib.suppress(ResamError):
            Adapter.open(path)
    for _ in range(40):
        tensors = dict(state)
        damage(tensors, chance)
        save_file(tensors, path, {"resam": json.dumps(provenance)})
        with pytest.raises(ResamError) as caught:
            apply_adapter(copy.deepcopy(toy), Adapter.open(path))
        one_line(caught.value, path)


def taken_as(kind: Any, value: Any) -> Any:
    try:
        return kind(value)
    except Malformed:
        return None


def test_an_adapter_says_nothing_of_where_its_base_lay(
    toy: Base, adapter: tuple[dict[str, torch.Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    state, provenance = adapter
    base, run = tmp_path / "home/anna/toy.safetensors", tmp_path / "run"
    base.parent.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in toy.sam.state_dict().items()}, base)
    options = TrainOptions(base=str(base))
    said = {**provenance, "base": describe_base(load_base(base)), "options": options.to_dict()}
    run.mkdir()
    write_adapter(run / "adapter.safetensors", state, said)
    assert b"anna" not in (run / "adapter.safetensors").read_bytes()
    with pytest.raises(ResamError, match=r"toy\.safetensors: no such base"):
        load_adapted(run)
    write_options(run / "config.toml", options)  # of the run that made it: stays where it is
    assert load_adapted(run)[0].architecture == toy.architecture
    (run / "config.toml").unlink()
    assert load_adapted(run, base)[0].architecture == toy.architecture


@pytest.mark.parametrize("content", [{}, {"trainer": 1}, [1], "x", {1: 2}, {"history": "{}"}])
def test_a_checkpoint_of_something_else_is_called_damaged(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "epoch-0001.pt")
    with pytest.raises(ResamError, match=r"epoch-0001\.pt: damaged checkpoint") as caught:
        latest_checkpoint(tmp_path)
    one_line(caught.value, tmp_path / "epoch-0001.pt")


def test_thousands_of_damaged_checkpoints_are_refused_or_of_the_right_kinds() -> None:
    good = {
        "trainer": {"epoch": 3},
        "identity": {"options": {"base": "tiny"}},
        "history": [{"epoch": 1, "step": 4, "loss": float("nan"), "watched": None}],
        "tested": {"base": {"instances": 3, "images": 1, "coarse": {"miou": 0.5}, "final": {"miou": None}}},
        "framing": {"fit_within": 256, "scale": 1.0},
    }
    taken = 0
    for state in mutations(good, 2000):
        if isinstance(state, dict):
            texts = {name: json.dumps(state[name]) for name in ("history", "tested") if name in state}
            state = {**state, **texts}
        if taken_as(CHECKPOINT, state) is not None:
            taken += 1
            assert all(isinstance(row["epoch"], int | float) for row in json.loads(state["history"]))
            assert isinstance(state["framing"]["fit_within"], int | float)
    assert 200 < taken < 1950


def test_the_report_escapes_what_a_checkpoint_says(tmp_path: Path) -> None:
    figures = {"miou": 0.5, "miou_images": None, "precision": 1, "recall": 1, "f1": 1, "miou_small": None}
    figures |= {"miou_medium": None, "miou_large": None}
    tested = {"<script>alert(1)</script>": {"instances": "<b>", "images": 1, "coarse": figures, "final": figures}}
    (tmp_path / "<i>").mkdir()
    write_report(tmp_path / "<i>", TrainOptions(base="<u>"), "<s>", [], tested)
    page = (tmp_path / "<i>/report.html").read_text()
    for tag in ("<script", "<b>", "<i>", "<u>", "<s>"):
        assert tag not in page
        assert tag.replace("<", "&lt;").replace(">", "&gt;") in page


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_encoder.neck.0.weight", torch.zeros(16, 32, 1, 1)),
        ("image_encoder.patch_embed.proj.weight", torch.zeros(32, 3, 0, 0)),
        ("image_encoder.pos_embed", torch.zeros(1, 0, 0, 60000)),
        ("image_encoder.pos_embed", torch.zeros(())),
        ("image_encoder.blocks.0.attn.rel_pos_h", torch.zeros(15, 0)),
        ("mask_decoder.mask_tokens.weight", torch.zeros(0, 64)),
        (7, torch.zeros(1)),
        (None, torch.zeros(1)),
    ],
)
def test_a_base_of_sizes_that_no_sam_has_is_refused(toy: Base, key: Any, value: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "base.pth"
    torch.save({**toy.sam.state_dict(), key: value}, path)
    with pytest.raises(ResamError, match=r"base\.pth: ") as caught:
        load_base(path)
    one_line(caught.value, path)


def test_many_damaged_bases_are_refused(toy: Base, tmp_path: Path) -> None:
    path, chance = tmp_path / "base.pth", random.Random(5)
    for _ in range(12):
        state: dict[Any, Any] = dict(toy.sam.state_dict())
        damage(state, chance)
        torch.save(state, path)
        with pytest.raises(ResamError) as caught:
            load_base(path)
        one_line(caught.value, path)


def damage(tensors: dict[Any, Any], chance: random.Random) -> None:
    """One tensor is dropped, renamed or has another shape."""
    name = chance.choice(sorted(tensors))
    value = tensors.pop(name)
    kind = chance.choice(("drop", "rename", "flat", "longer", "empty", "scalar"))
    if kind == "rename":
        tensors[chance.choice((name + "x", "blocks.99.query_down", "image_encoder.pos_embed"))] = value
    elif kind != "drop":
        shape = {
            "flat": (value.numel(), 1, 1),
            "longer": (*value.shape, 2),
            "empty": (0, *value.shape[1:]),
            "scalar": (),
        }
        tensors[name] = torch.zeros(shape[kind])
