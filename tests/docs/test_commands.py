"""Every command that README and docs show is executed; those that cannot be here are listed and their options parsed.

Commands run in the order of their page, in a folder with a user's files in it: `images/`, `mydata/`, `points.json`,
`model.resam`. Only what takes minutes is made small, by options added at the end. docs/paper-tables.md has data sets
and a checkpoint of its own, made up here. docs/results.md has the commands that made its figures, hours of work: parsed
only.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from resam.data.coco import CocoData
from resam.data.prompts import PointOptions, scene_prompts
from resam.synthetic import write_dataset
from resam.training.options import preset_names, read_options
from resam_benchmarks.ablation.rows import NAMES
from resam_runtime.engine.shipped import SHIPPED

from ..resam.conftest import TOY
from ..resam.families import shaken, with_masks
from ..shared import Shared
from .pages import PAGES, ROOT, Line, blocks, commands

COMMANDS = {
    "resam-train": "resam.cli:train",
    "resam-distill": "resam.distill_cli:distill",
    "resam-export": "resam_export.cli:export",
    "resam-run": "resam_runtime.cli:run",
    "resam-merge": "resam_runtime.merge.cli:merge",
    "resam-bench": "resam_benchmarks.cli:bench",
    "resam-annotate": "resam_runtime.annotate.cli:annotate",
    "resam-doctor": "resam_runtime.doctor.cli:doctor",
    "resam-demo": "resam_benchmarks.demo.cli:demo",
    "python -m resam_benchmarks.wide": "resam_benchmarks.wide:main",
    "python -m resam.synthetic": "resam.synthetic.__main__:main",
    "python -m resam.pretrain": "resam.pretrain.__main__:pretrain",
    "python -m resam.pretrain.measure": "resam.pretrain.measure:measure",
}
SMALL = {
    # what learns next to nothing exports the base's graphs, traced already; the demonstration adapts an encoder
    "resam-train": ["--epochs", "1", "--set", "prompter_steps=2", "--set", "learning_rate=1e-30"],
    "resam-distill": ["--epochs", "1", "--tiles", "2", "--prompts", "1"],
    "resam-bench": ["--repeats", "1", "--automatic", "0", "--quiet"],
    "resam-bench compare": ["--limit", "1000%", "--miou-limit", "1"],
    "resam-bench robustness": ["--limit", "1", "--quiet"],
    "resam-bench ablation": ["--seeds", "1", "--epochs", "1", "--scenes", "1", "--limit", "1", "--quiet"],
    "resam-demo": ["--scenes", "1", "--epochs", "1", "--limit", "2", "--repeats", "1"],
}
NOT_HERE = (
    # Reviewed: what changes the machine, installs, or asks a Jetson. Nothing of ours hides behind these.
    r"python3 -m venv .*",
    r"\. (\.venv|/opt/resam)/bin/activate",
    r"pip (install|wheel) .*",
    r"docker (build|run) .*",
    r"export PATH=.*",
    r"sudo (apt-get|nvpmodel|jetson_clocks|systemctl|useradd|install) ?.*",
    r"journalctl .*",
    r"cat /etc/nv_tegra_release",
    r"dpkg-query .*",
    r"grep -i 'POWER_MODEL' .*",
    r"free -m",
    r"python3 -c .*",
    # an hour, and files in memory; tests/benchmarks/test_archive.py runs it with fewer scenes
    r"python -m resam_benchmarks\.steps\.archive .*",
    # the tests themselves, and what .ci/run runs before them
    r"pytest.*|ruff .*|mypy|\.ci/run",
    r"git .*",
    # from a bucket that is nowhere; test_archive parses its options
    r"resam-run .* s3://.*",
)
# needs TensorRT and its GPU; graphs of SAM's size, which tests/benchmarks/test_wide.py makes
PARSED_ONLY = re.compile(r"\.plan\b|\b(wide\.safetensors|whole\.resam|edges\.resam)")
TORCHLESS = ("resam-run", "resam-annotate")


@pytest.fixture(scope="session")
def user(shared: Shared, traces: None) -> Path:
    return shared.path("user", write_user)


def write_user(folder: Path) -> None:
    """A user's folder: images/, points on them, a data set with masks in mydata/, an engine file."""
    write_dataset(folder / "mydata", train=1, val=0, test=1, seed=3, size=200)
    data = CocoData.open(folder / "mydata" / "train.json")
    (folder / "images").mkdir()
    scenes = {}
    for scene, prompts in zip(data.scenes, scene_prompts(data, PointOptions())):
        shutil.copy(scene.path, folder / "images" / scene.name)
        instances = [{"points": prompt.coords.tolist()} for prompt in prompts]
        scenes[scene.name] = {"width": scene.width, "height": scene.height, "instances": instances}
    document = {"format": "resam-points", "version": 1, "scenes": scenes}
    for name in ("drawn.json", "points.json"):
        (folder / name).write_text(json.dumps(document))
    shutil.copy(SHIPPED["tiny"], folder / "model.resam")


@pytest.fixture
def here(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the user's folder as the working folder."""
    shutil.copytree(user, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    # an export is verified on many scenes; here on one
    monkeypatch.setattr("resam_export.engine.default_count", lambda *about: 1)
    return tmp_path


def command_of(line: Line) -> tuple[str, list[str]] | None:
    """Which of our commands a line calls, and its arguments; None for anything else."""
    words = line.words
    for length in (1, 3):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, words[length:]
    return None


def click_command(name: str) -> click.Command:
    module, _, attribute = COMMANDS[name].partition(":")
    found: click.Command = getattr(importlib.import_module(module), attribute)
    return found


def parse(name: str, arguments: list[str]) -> None:
    """Raise where a command has no such option or argument."""
    context = click_command(name).make_context(name, list(arguments))
    command = context.command
    if isinstance(command, click.Group):
        protected = getattr(context, "_protected_args", None)  # click's name since 8.2
        words = [*(context.protected_args if protected is None else protected), *context.args]
        chosen, child, rest = command.resolve_command(context, words)
        assert child is not None
        child.make_context(chosen, rest, parent=context)


def execute(line: Line, here: Path) -> None:
    found = command_of(line)
    assert found is not None, line.text
    name, arguments = found
    if PARSED_ONLY.search(line.text) or arguments[:1] == ["--help"]:
        return
    if name == "resam-annotate":
        annotate(arguments, here)
        return
    small = SMALL.get(f"{name} {arguments[0]}" if arguments else name, SMALL.get(name, []))
    result = CliRunner().invoke(click_command(name), [*arguments, *small], catch_exceptions=False)
    assert result.exit_code == 0, f"{line.page}: {line.text}\n{result.output}"


def annotate(arguments: list[str], here: Path) -> None:
    """Start the page's server, see that it says where it is and ends when asked; then come the points a user draws."""
    with background(["resam_runtime.annotate.cli", *arguments, "--no-browser"]) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(2)]
        assert "http://127.0.0.1:" in lines[1], lines
    if "-o" in arguments:
        shutil.copy(here / "drawn.json", arguments[arguments.index("-o") + 1])


class background:
    """A module of ours as a process, ended by SIGTERM as a service manager would."""

    def __init__(self, words: list[str]) -> None:
        program = f"import {words[0]} as m; m.{'annotate' if 'annotate' in words[0] else 'run'}()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)


def runnable(page: str) -> list[Line]:
    return [line for line in commands(page) if not any(re.fullmatch(rule, line.text) for rule in NOT_HERE)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_and_has_its_options(page: str) -> None:
    for line in runnable(page):
        found = command_of(line)
        assert found is not None, f"{page}: {line.text}: neither one of our commands nor listed in NOT_HERE"
        parse(*found)


SLOW = ("README.md", "docs/encoders.md", "docs/finding.md", "docs/benchmarks.md")  # they train, export, measure
PARSED = ("docs/results.md", "docs/tiny-base.md")  # hours, and data that are not here
PAPER = "docs/paper-tables.md"  # its own test below
RUN = [
    pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page
    for page in PAGES
    if runnable(page) and page not in (*PARSED, PAPER)
]


@pytest.mark.parametrize("page", RUN)
def test_commands_of_a_page_run_in_its_order(page: str, here: Path) -> None:
    for line in runnable(page):
        if command_of(line) is not None and command_of(line)[0] == "resam-demo":  # type: ignore[index]
            continue  # its own test below
        execute(line, here)


DEEP_TOY = dataclasses.replace(TOY, encoder_depth=7, global_blocks=(6,))
"""As deep as the presets of the paper need: LoRA from block 6 on."""


@pytest.mark.slow
def test_the_papers_tables_can_be_made(here: Path) -> None:
    sam, traced = (with_masks(shaken(toy)).sam for toy in (DEEP_TOY, TOY))
    sam.mask_decoder.load_state_dict(traced.mask_decoder.state_dict())  # the decoder that other tests export
    sam.prompt_encoder.load_state_dict(traced.prompt_encoder.state_dict())
    torch.save(sam.state_dict(), here / "sam_vit_b_01ec64.pth")
    laid_out = "".join(blocks(PAPER, "text")).split()
    for folder in {Path(place).parent for place in laid_out}:
        shutil.copytree(here / "mydata", folder)
    assert all(Path(place).exists() for place in laid_out), "the page's layout is that of a data set"
    for line in runnable(PAPER):
        if re.search(r"(whu|hrsid)-1(\.resam)? ", line.text) and "resam-train" not in line.text:
            continue  # engines of the same shape; nwpu's will do
        execute(line, here)
    for name in ("nwpu", "whu", "hrsid"):
        for points in (1, 2, 3):
            config = (here / "runs" / f"{name}-{points}" / "config.toml").read_text()
            assert f"points = {points}\n" in config
    bench = json.loads((here / "bench-nwpu" / "bench.json").read_text())
    assert {case["label"] for case in bench["cases"]} == {"1 point", "2 points", "3 points"}


def test_presets_and_rows_that_pages_name_exist() -> None:
    """In commands that are only parsed too."""
    for page in PAGES:
        for line in runnable(page):
            given = dict(zip(line.words, line.words[1:]))
            if "--preset" in given:
                assert given["--preset"] in preset_names(), line.text
            assert set(given.get("--rows", NAMES[0]).split(",")) <= set(NAMES), line.text


@pytest.mark.slow
def test_the_readmes_demonstration_ends_with_its_page(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resam.synthetic.write_dataset", functools.partial(write_dataset, size=272))  # of four tiles
    monkeypatch.setattr("resam.training.sources.VAL_SCENES", 1)
    monkeypatch.setattr("resam.training.sources.TEST_SCENES", 4)
    monkeypatch.setattr("resam_benchmarks.demo.steps.PROMPTER_STEPS", 10)
    monkeypatch.setattr("resam_benchmarks.demo.steps.CHECKED", 1)
    monkeypatch.setattr("resam_export.engine.CALIBRATION_TILES", 4)
    # the encoder is adapted alone: test_adapter exports a decoder that is
    monkeypatch.setattr("resam.training.options.read_options", functools.partial(read_options, decoder_rank=0))
    (line,) = [one for one in commands("README.md") if one.text.startswith("resam-demo")]
    execute(line, here)
    page = (here / "demo" / "demo.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") >= 8
    assert not re.search(r'(src|href)="(https?:)?//', page), "the page must open offline"
    for target in re.findall(r'href="([^"]+)"', page):
        assert (here / "demo" / target).exists(), target
    # again: nothing is done twice
    before = (here / "demo" / "bench" / "bench.json").stat().st_mtime_ns
    started = time.monotonic()
    execute(line, here)
    assert (here / "demo" / "bench" / "bench.json").stat().st_mtime_ns == before
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_program_of_a_page_runs(page: str, here: Path) -> None:
    image = cv2.cvtColor(cv2.imread(str(next((here / "images").iterdir()))), cv2.COLOR_BGR2RGB)
    (program,) = blocks(page, "python")
    names = {"image": image, "points": np.array([[50, 60], [120, 90]])}
    exec(compile(program, page, "exec"), names)
    instances = names["instances"]
    assert len(instances) == 2


def test_a_watched_folder_is_served_until_sigterm(here: Path) -> None:
    """The service of docs/deploy-jetson.md, with an engine that runs here."""
    (line,) = [one for one in commands("docs/deploy-jetson.md") if "--watch" in one.text]
    words = line.words
    words[words.index("--engine") + 1] = "model.resam"
    incoming, results = here / "incoming", here / "results"
    words[words.index("--watch") + 1], words[words.index("-o") + 1] = str(incoming), str(results)
    incoming.mkdir()
    with background(["resam_runtime.cli", *words[1:], "--poll", "0.1"]) as process:
        scene = next((here / "images").iterdir())
        points = json.loads((here / "drawn.json").read_text())["scenes"][scene.name]
        (incoming / f"{scene.name}.points.json").write_text(json.dumps(points))
        shutil.copy(scene, incoming / scene.name)
        deadline = time.monotonic() + 60
        while not (results / "instances.json").is_file() or not list(results.glob("*.geojson")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert process.returncode == 143
    assert json.loads((results / "summary.json").read_text())["totals"]["scenes"] == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name: str) -> None:
    command = click_command(name)
    own = command.commands.values() if isinstance(command, click.Group) else [command]
    for one in own:
        text = one.get_help(
            one.context_class(one, info_name=name, terminal_width=300, max_content_width=300, **one.context_settings)
        )
        shown = re.findall(rf"^\s*(?:Example: )?({re.escape(name)}(?: .*)?)$", text, re.MULTILINE)
        assert shown, f"{name} {one.name}: no example in --help"
        for example in shown:
            line = re.split(r"\s{2,}|  ", example.strip())[0]
            parse(name, Line("", line).words[len(name.split()) :])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_the_pages_name_is_in_help(name: str) -> None:
    command = click_command(name)
    own = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    text = "".join(CliRunner().invoke(one, ["--help"]).output for one in own)
    used = {
        word.split("=")[0]
        for page in PAGES
        for line in commands(page)
        if (found := command_of(line)) is not None and found[0] == name
        for word in found[1]
        if re.match(r"--?[a-z]", word)
    }
    known = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", text))
    assert used <= known


OURS: Callable[[], set[str]] = lambda: {  # noqa: E731
    option
    for name in COMMANDS
    for command in [click_command(name)]
    for one in [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    for parameter in one.params
    for option in [*parameter.opts, *parameter.secondary_opts]
}
THEIRS = {
    "--system-site-packages",
    "--no-deps",
    "--help",
    "--no-cache-dir",
    "--build-arg",
    "--gpus",
    "--durations",
    "--runtime",
}


def test_options_named_in_the_text_exist() -> None:
    known = OURS() | THEIRS
    for page in PAGES:
        text = Path(page if os.path.isabs(page) else Path(__file__).parents[2] / page).read_text("utf-8")
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for option in re.findall(r"`[^`\n]*?(--[a-z][\w-]*)", prose):
            assert option in known, f"{page} names {option}, which no command has"
