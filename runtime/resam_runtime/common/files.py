"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

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


class NotRegular(OSError):
    """A FIFO, a device or a socket where a file is expected."""


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a regular file, at most `most` of them. Raises `OSError` for one that is missing, larger, or of
    another kind: to open a FIFO or a device, which somebody may put where a file is expected, could take for ever.
    """
    with open_regular(path) as file:
        content = file.read(-1 if most is None else most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", os.fspath(path))
    return content


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: str = "rb") -> IO[Any]:
    """A regular file, opened with flags of `os.open`, as `open` gives it in a mode. Raises as `read_regular`."""
    # without waiting for the other end of a FIFO; of no meaning to what passes the check
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        found = os.fstat(number).st_mode
        if stat.S_ISDIR(found):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(found):
            raise NotRegular(errno.EINVAL, "not a regular file", os.fspath(path))
        return open(number, mode)
    except BaseException:
        os.close(number)
        raise


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
