"""The options of a training run: one flat table, with presets as TOML files of the same keys."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from resam.data.prompts import PointOptions
from resam.model.lora import Layers
from resam.model.refine_requery import Requery, refine_logit
from resam.training.sizes import parse_sizes
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write
from resam_runtime.tiles.tiling import MAX_SCALE, MIN_SCALE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

EXAMPLES, BY_IMAGE = "examples", "image"  # of the option sizes: of each class from its examples; of each image
PseudoKind = Literal["coarse", "refined", "final", "consensus"]
PRESETS = Path(__file__).parents[1] / "presets"
Options = TypeVar("Options", bound="DataclassInstance")


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides what a run computes; `ResamError` for a value out of range."""

    base: str = "tiny"
    # points
    points: int = 1  # positive points per instance
    negatives: int = 0  # negative points per instance, drawn outside the true mask; -1: as many as `points` (reference)
    resample_points: bool = False  # fresh points each epoch (the reference's protocol)
    asked: int = 0  # of an instance's positive points those that the student sees, drawn at each step; 0: all
    calibrate_negatives: bool = False  # neighbours with overlapping coarse masks become negative points (PointSAM)
    # the loop
    tau: float = 0.3
    requery: Requery = "box+points"
    rounds: int = 1
    pseudo: PseudoKind = "final"  # which masks are taught: the loop's, or those of `resam.training.consensus`
    teach_requery: bool = False  # the loss is on the masks of Requery too, not on those of the points alone
    own_boxes: float = 0.0  # share of the instances whose taught Requery asks with the student's box, not the label's
    sizes: str = ""  # of the objects of a class (`resam.training.sizes`): "ship=30x6m", "examples", "image", or nothing
    examples: int = 0  # of each class (or image), drawn from the true masks: for boxes that a person would draw
    soft: bool = False  # the consensus is taught as probabilities, and weighs by the agreement of the views
    supervised: bool = False  # true masks instead of pseudo-masks: the upper bound
    fit_within: int = 0  # px; 0: the base's own
    scale: float = 1.0  # tile pixels for each pixel of a larger scene
    choose_scale: bool = False  # by the agreement of the base's masks (`resam.training.framing`)
    # adapter
    rank: int = 4
    start: int = 0  # first block with LoRA
    layers: Layers = "qv"  # with LoRA: queries and values, or all linear layers
    decoder_rank: int = 0  # of LoRA in the mask decoder; 0: it is frozen
    decoder_rate: float = 0.3  # its learning rate, as a share of the encoder's
    # soft semantic alignment
    ssa: Literal["gradient", "paired", "detached", "off"] = "gradient"
    queue: int = 128
    beta: float = 4.0
    # prompter
    prompter: bool = False  # teach the head that finds instances without points (`resam.training.prompter`)
    prompter_steps: int = 1200
    prompter_rate: float = 4e-3  # its learning rate
    prompter_joint: float = 0.0  # weight of its loss while the adapter is trained; 0: it is taught on frozen embeddings
    clicked: float = 1.0  # share of the instances in the training images that have a click
    # optimisation
    epochs: int = 10
    batch: int = 1  # tiles per step, over all devices
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 50  # steps, at most a tenth of all
    clip: float = 1.0  # largest norm of the gradient
    strength: float = 0.5  # probability of each operation of the strong view
    teacher: Literal["student", "average"] = "student"  # whose weights see the weak view
    average: float = 0.99  # decay of the weights' exponential average, which is what a run keeps; 0: the last weights
    set_aside: float = 0.0  # share of the scenes that are kept from training, to tell whether it does harm
    seed: int = 0
    chunk: int = 8  # prompts decoded at once

    def __post_init__(self) -> None:
        checks = {
            "points": self.points >= 1,
            "negatives": self.negatives >= -1,
            "rounds": self.rounds >= 1,
            "asked": self.asked >= 0,
            "own_boxes": 0 <= self.own_boxes <= 1,
            "examples": self.examples >= 0,
            "set_aside": 0 <= self.set_aside < 1,
            "decoder_rank": self.decoder_rank >= 0,
            "decoder_rate": 0 < self.decoder_rate < math.inf,
            "rank": self.rank >= 1,
            "start": self.start >= 0,
            "queue": self.queue >= 0,
            "beta": 0 <= self.beta < math.inf,
            "prompter_steps": self.prompter_steps >= 1,
            "prompter_rate": 0 < self.prompter_rate < math.inf,
            "prompter_joint": 0 <= self.prompter_joint < math.inf,
            "clicked": 0 < self.clicked <= 1,
            "epochs": self.epochs >= 0,
            "batch": self.batch >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": self.warmup >= 0,
            "clip": self.clip > 0,
            "strength": 0 <= self.strength <= 1,
            "average": 0 <= self.average < 1,
            "seed": 0 <= self.seed < 1 << 63,  # torch takes no larger one
            "chunk": self.chunk >= 1,
            "fit_within": self.fit_within >= 0,
            "scale": MIN_SCALE <= self.scale <= MAX_SCALE,
        }
        check_ranges(self, checks)
        for name, hint in get_type_hints(TrainOptions).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ResamError(f"option {name}: expected {' or '.join(get_args(hint))}, got {getattr(self, name)!r}")
        if self.teacher == "average" and not self.average:
            raise ResamError("option teacher: 'average' needs the option average above 0, such as 0.99")
        if self.requery == "none" and self.teach_requery:
            raise ResamError("option requery: 'none' does not go with teach_requery; leave one out")
        if self.says_sizes:
            parse_sizes(self.sizes)
        if self.needs_consensus and (self.resample_points or self.calibrate_negatives):
            which = "resample_points" if self.resample_points else "calibrate_negatives"
            raise ResamError(f"option pseudo: 'consensus' is made once, before training; leave out {which}")
        try:
            refine_logit(self.tau)
        except ValueError as error:
            raise ResamError(f"option tau: {error}") from None

    @property
    def says_sizes(self) -> bool:
        """Whether `sizes` names classes, and not where their sizes are to be looked for."""
        return self.sizes not in ("", EXAMPLES, BY_IMAGE)

    @property
    def needs_consensus(self) -> bool:
        """Whether a consensus is to be made before training: true masks come before it."""
        return self.pseudo == "consensus" and not self.supervised

    @property
    def joint(self) -> bool:
        """Whether the prompter's loss reaches the adapter."""
        return self.prompter and self.prompter_joint > 0

    def point_options(self, file: Path | None = None, keypoints: bool = False) -> PointOptions:
        """The part of the options that says where points come from."""
        return PointOptions(self.points, _beside(self.negatives, self.points), self.resample_points, file, keypoints)

    @property
    def test_points(self) -> PointOptions:
        """The points that a split with masks is measured with: as many as the student is asked with."""
        points = self.asked or self.points
        return PointOptions(points, _beside(self.negatives, points))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by name."""
        return dataclasses.asdict(self)


def _beside(negatives: int, points: int) -> int:
    return points if negatives < 0 else negatives


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_options(preset: str | Path, **changes: Any) -> TrainOptions:
    """Options from a preset's name or a TOML file, with `changes` on top (None: no change).

    Raises `ResamError` for an unknown preset, a file that is not TOML, or a key that is no option.
    """
    path = _preset_path(preset)
    values = _preset_values(path)
    return options_from(values | {name: value for name, value in changes.items() if value is not None}, str(path))


def _preset_path(preset: str | Path) -> Path:
    path = PRESETS / f"{preset}.toml" if str(preset) in preset_names() else Path(preset)
    if not path.is_file():
        raise ResamError(f"{preset}: no such preset or file; presets are {', '.join(preset_names())}")
    return path


def _preset_values(path: Path) -> dict[str, Any]:
    """The values of a TOML file, on top of those of the preset that its `preset` names."""
    values = read_toml(path)
    values.pop("data", None)  # where the data of a written configuration lay; not an option
    below = values.pop("preset", None)
    if below is None:
        return values
    if below not in preset_names() or PRESETS / f"{below}.toml" == path:
        raise ResamError(f"{path}: preset: expected another preset's name, got {below!r}")
    return _preset_values(PRESETS / f"{below}.toml") | values


def check_ranges(options: Any, checks: Mapping[str, bool]) -> None:
    """`ResamError` for the first option whose value is out of range. checks: by its name, whether it is in."""
    for name, holds in checks.items():
        if not holds:
            raise ResamError(f"option {name}: {getattr(options, name)} is out of range")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file; `ResamError` for one that cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ResamError(f"{path}: not a readable TOML file ({error})") from None


def options_from(values: Mapping[str, Any], where: str) -> TrainOptions:
    """`typed` for `TrainOptions`."""
    return typed(TrainOptions, values, where)


def typed(options: type[Options], values: Mapping[str, Any], where: str) -> Options:
    """A dataclass of options from plain values; `ResamError` naming `where` for a key that is no option or a value of
    another type."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    for name, value in values.items():
        if name not in fields:
            raise ResamError(f"{where}: {name!r} is not an option; options are {', '.join(fields)}")
        kind = type(fields[name].default)
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int) and not isinstance(value, bool))
        if not fits or (kind is int and isinstance(value, bool)):
            raise ResamError(f"{where}: {name}: expected {kind.__name__}, got {value!r}")
    return options(**{k: float(v) if type(fields[k].default) is float else v for k, v in values.items()})


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Options from NAME=VALUE texts, the value as in TOML, or bare text. `ResamError` for another form."""
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ResamError(f"{text!r}: expected NAME=VALUE, such as epochs=3")
        try:
            changes[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name.strip()] = value.strip()
    return changes


def write_options(path: Path, options: Any, data: Mapping[str, Any] | None = None) -> None:
    """Write a dataclass of options as TOML, with the data they were used on; `read_options` reads it back.

    `ResamError` for a path that UTF-8 has no letters for.
    """
    lines = [f"{name} = {_toml(value)}" for name, value in dataclasses.asdict(options).items()]
    if data:
        lines += ["", "[data]", *(f"{name} = {_toml(value)}" for name, value in data.items())]
    try:
        content = ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError:
        raise ResamError(f"{path}: the path is not valid UTF-8 and cannot be recorded; rename it") from None
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)
