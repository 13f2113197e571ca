"""What every command answers: -h as --help, and --version."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

import resam
from resam.cli import train
from resam.distill_cli import distill
from resam.pretrain.__main__ import pretrain
from resam.pretrain.measure import measure
from resam.synthetic.__main__ import main as synthetic
from resam_benchmarks.cli import bench
from resam_benchmarks.demo.cli import demo
from resam_export.cli import export
from resam_runtime.cli import run


@pytest.mark.parametrize(
    "command", [train, distill, export, demo, pretrain, measure, synthetic], ids=lambda command: command.name
)
def test_every_command_has_a_short_help_and_a_version(command: click.Command) -> None:
    short, long, version = (CliRunner().invoke(command, [flag]) for flag in ("-h", "--help", "--version"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert (version.exit_code, f"version {resam.__version__}" in version.output) == (0, True)


def test_the_help_of_training_fits_a_screen_and_a_half() -> None:
    shown = CliRunner().invoke(train, ["--help"], terminal_width=80).output
    assert len(shown.splitlines()) <= 60


def test_32_is_still_understood_as_a_precision_but_no_longer_shown() -> None:
    for command in (train, bench.commands["ablation"]):
        (option,) = (one for one in command.params if one.name == "precision")
        assert option.type.convert("32", option, None) == "fp32"
        assert "|32|" not in CliRunner().invoke(command, ["--help"]).output
    assert CliRunner().invoke(train, ["--precision", "16"]).exit_code == 2
    assert int(resam.__version__.split(".")[1]) < 3, "0.3 is here: remove 32 from TrainingPrecision"


def test_the_help_does_not_forbid_more_points_than_training_takes() -> None:
    assert "1 or more" in " ".join(CliRunner().invoke(train, ["--help"]).output.split())


@pytest.mark.parametrize("command", [run, *bench.commands.values()], ids=lambda command: str(command.name))
def test_out_is_still_understood_but_no_longer_shown(command: click.Command) -> None:
    options = [option for option in command.params if "--out" in option.opts]
    assert command.name == "compare" or ["--output" in option.opts for option in options] == [True]
    assert not re.search(r"--out\b", CliRunner().invoke(command, ["--help"]).output)
    assert int(resam.__version__.split(".")[1]) < 3, "0.3 is here: remove --out from resam_runtime.common.commands"
