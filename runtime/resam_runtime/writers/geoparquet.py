"""`instances.parquet`: all instances of a run as GeoParquet 1.1, geometries as WKB, with a column of bounding boxes.

See https://geoparquet.org/releases/v1.1.0/. Each batch of features is a row group, so that readers who ask for a part
of the map skip the others, and memory is that of one batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resam_runtime.common.files import atomic_write
from resam_runtime.writers.features import GEOMETRY, PACKAGES, feature_batches, schema
from resam_runtime.writers.record import Record
from resam_runtime.writers.writer import OutputOptions, RunInfo, RunWriter

_SIDES = ("xmin", "ymin", "xmax", "ymax")


class GeoparquetWriter(RunWriter):
    """Writes `instances.parquet`."""

    name, files, options = "geoparquet", "instances.parquet", ("simplify",)
    extra, packages = "geo", PACKAGES

    def write(self, path: Path, records: Iterable[Record], run: RunInfo, options: OutputOptions) -> int:
        """As `RunWriter.write`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        box = pa.struct([(side, pa.float64()) for side in _SIDES])
        columns = schema().append(pa.field("bbox", box))
        whole = np.full((0, 4), np.nan)
        with atomic_write(path) as temporary, pq.ParquetWriter(temporary, columns, compression="zstd") as out:
            for batch in feature_batches(records, run, options):
                empty = np.isnan(batch.bounds[:, 0])
                sides = [pa.array(values, pa.float64(), mask=empty) for values in batch.bounds.T]
                boxes = pa.StructArray.from_arrays(sides, fields=list(box), mask=pa.array(empty))
                out.write_batch(pa.RecordBatch.from_arrays([*batch.rows.columns, boxes], schema=columns))
                whole = _around(np.concatenate([whole, batch.bounds[~empty]]))
            out.add_key_value_metadata({"geo": json.dumps(_metadata(whole))})
        return 0


def _around(bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One box (1, 4) around all; (0, 4) around none."""
    return np.concatenate([bounds[:, :2].min(0), bounds[:, 2:].max(0)])[None] if len(bounds) else bounds


def _metadata(whole: npt.NDArray[np.float64]) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon"] if len(whole) else [],
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    column |= {"bbox": whole[0].tolist()} if len(whole) else {}
    # without a member crs it is OGC:CRS84
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
