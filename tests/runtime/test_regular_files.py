"""Files that are found beside scenes or in a run's folder are opened only where they are regular ones."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from resam_runtime.common.files import open_regular, read_regular


def make(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(os.fspath(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to a fifo":
        os.mkfifo(path.with_name("other"))
        path.symlink_to("other")
    else:
        path.mkdir()


@pytest.mark.parametrize("mode", ["rb", "ab", "wb"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "link to a fifo", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(
    kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    make(kind, Path("x"))
    with pytest.raises(OSError, match="directory" if kind == "folder" else "not a regular file"):
        open_regular("x", mode)


def test_regular_files_open_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with open_regular(path, "ab") as out:
        out.write(b"one")
    path.with_name("b").symlink_to("a")
    assert read_regular(path.with_name("b")) == b"one"
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
