"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = re.compile(r"\.resam\.[0-9a-f]{8}\.tmp(\.[^.]*)?")
"""Names of `atomic_write`'s temporary files, as a whole: what a process that was killed may leave."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block ends without an error.

    The temporary file lies in the same folder (a rename across file systems is not atomic), keeps the
    suffix (OpenCV picks its encoder by it) and is flushed to disk before the rename, so that a crash
    leaves the old file or the new one, never a part. Its name is no longer for a long name: that could be one
    that fits while its temporary name does not. Raises whatever the block raises; `OSError` when the folder
    cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".resam.{secrets.token_hex(4)}.tmp{target.suffix}")
    # not tempfile's, which are private: an output is an ordinary file, as open to others as the umask says
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
