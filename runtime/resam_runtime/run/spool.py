"""The records of a run, read and checked once, for all that is made from them."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator

from resam_runtime.writers import Record


class RecordSpool:
    """Records in one file without a name, which no one else can write to. Iterate over it as often as need be.

    A record of a scene is a small file of its own, which takes far longer to find and check than to read. Memory holds
    one record at a time. Use as a context manager: the file goes with it.
    """

    def __init__(self, records: Iterable[Record], folder: str | os.PathLike[str]) -> None:
        """folder: where there is room for as much as the records take. Raises OSError."""
        self._file = tempfile.TemporaryFile(prefix=".resam.", dir=folder)  # noqa: SIM115 - closed by `__exit__`
        try:
            for record in records:
                pickle.dump(record, self._file, pickle.HIGHEST_PROTOCOL)
            self._end = self._file.tell()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RecordSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Record]:
        at = 0
        while at < self._end:  # others may go through it in between
            self._file.seek(at)
            record: Record = pickle.load(self._file)
            at = self._file.tell()
            yield record


class DoneRecords:
    """Those of the scenes that are done."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = records

    def __iter__(self) -> Iterator[Record]:
        return (record for record in self._records if not record.failed)
