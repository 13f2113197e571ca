"""What results say of where they were measured: the commit is that of this package's own source, or none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from resam_benchmarks.measure import machine

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder: Path, *tracked: str) -> str:
    """Make a repository of these files; returns its commit."""
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x = 1\n")
    git(folder, "init", "-q")
    git(folder, "add", *tracked)
    git(folder, "commit", "-q", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


def test_a_source_tree_has_its_commit_and_a_plus_where_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = repository(tmp_path, "package/machine.py", "README.md")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "package" / "machine.py"))
    assert machine.commit() == made
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "bench.json").write_text("{}")  # results are no change of what measured them
    assert machine.commit() == made
    (tmp_path / "README.md").write_text("changed")
    assert machine.commit() == made + "+"


@pytest.mark.parametrize("ignored", [False, True])
def test_a_package_installed_inside_another_repository_has_none(
    ignored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path, "theirs.py")
    if ignored:
        (tmp_path / ".gitignore").write_text(".venv\n")
    path = tmp_path / ".venv" / "site-packages" / "resam_benchmarks" / "machine.py"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(machine, "__file__", str(path))
    assert machine.commit() is None
