"""Files that a run writes: a disk that is full is one line which names the file, not a traceback after hours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from resam_runtime.errors import ResamError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """An `OSError` in the block, which writes `path`, becomes a `ResamError` with file, cause and what to do."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or error
        raise ResamError(
            f"{path}: cannot be written ({cause}); make room there, then go on with --resume: what is done is kept"
        ) from None
