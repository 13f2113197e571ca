"""Files that a run writes: a disk that is full is one line which names the file, not a traceback after hours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write

RESUME = "make room there, then use --resume; finished work is kept"


@contextlib.contextmanager
def writing(path: Path, advice: str = RESUME) -> Iterator[None]:
    """An `OSError` in the block, which writes `path`, becomes a `ResamError` with file, cause and what to do."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or error
        raise ResamError(f"{path}: cannot be written ({cause}); {advice}") from None


def write_bytes(path: Path, data: bytes | memoryview, advice: str = RESUME) -> None:
    """Write a file whole. From memory, where a few MB do no harm: the libraries' own writers answer a full disk with
    errors about their insides, and name no file. Raises `ResamError` as `writing`."""
    with writing(path, advice), atomic_write(path) as temporary:
        temporary.write_bytes(data)
