"""Files that are whole or absent, and opening none but regular ones."""

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
from typing import IO

TEMPORARY = re.compile(r"\.resam\.[0-9a-f]{8}\.tmp(\.[^.]*)?")
"""Names of `atomic_write`'s temporary files, as a whole: what a process that was killed may leave."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block ends without an error.

    The temporary file lies in the same folder (a rename across file systems is not atomic), keeps the
    suffix (OpenCV picks its encoder by it) and is flushed to disk before the rename, so that a crash
    leaves the old file or the new one, never a part. Its name is no longer for a long name: that could be one
    that fits while its temporary name does not. flush: wait for the disk, which takes milliseconds; without it a crash
    of the system, not of the program, may lose the file. Raises whatever the block raises; `OSError` when the folder
    cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".resam.{secrets.token_hex(4)}.tmp{target.suffix}")
    # not tempfile's, which are private: an output is an ordinary file, as open to others as the umask says
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        if flush:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class NotRegular(OSError):
    """A FIFO, a device or a socket where a file is expected."""


def open_regular(path: str | os.PathLike[str], mode: str = "rb") -> IO[bytes]:
    """Open a file that is found, not asked for (beside a scene, in a run's folder), in a binary mode of `open`.

    Raises `OSError`: what the system says, or that it is a FIFO, a device or a socket, whose opening could wait for
    ever or do something. A link counts as what it leads to.
    """

    def opener(name: str, flags: int) -> int:
        with contextlib.suppress(FileNotFoundError):
            _must_be_regular(os.stat(name), name)  # before it is opened: opening a device may do something
        handle = os.open(name, flags | os.O_NONBLOCK, 0o666)
        try:
            _must_be_regular(os.fstat(handle), name)  # it may have been exchanged in between
        except BaseException:
            os.close(handle)
            raise
        return handle

    return open(os.fspath(path), mode, opener=opener)


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of such a file, at most `most` of them. Raises `OSError` as `open_regular`, and for a larger one."""
    with open_regular(path) as file:
        content = file.read(-1 if most is None else most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", os.fspath(path))
    return content


def _must_be_regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular(errno.EINVAL, "not a regular file", name)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
