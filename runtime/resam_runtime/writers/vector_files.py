"""`instances.fgb` and `instances.gpkg`: all instances of a run as FlatGeobuf and as GeoPackage, by GDAL's writers.

FlatGeobuf sorts by place, for the index that it is made for: instances without a geometry are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from resam_runtime.common.errors import one_line
from resam_runtime.common.files import atomic_write
from resam_runtime.writers.features import GEOMETRY, PACKAGES, feature_batches, schema
from resam_runtime.writers.record import Record
from resam_runtime.writers.writer import OutputOptions, RunInfo, RunWriter


class _VectorFile(RunWriter):
    options, extra, packages = ("simplify",), "geo", (*PACKAGES, "pyogrio")
    driver: ClassVar[str]
    holds_placeless: ClassVar[bool] = True

    def write(self, path: Path, records: Iterable[Record], run: RunInfo, options: OutputOptions) -> int:
        """As `RunWriter.write`."""
        import pyarrow as pa
        from pyogrio.raw import write_arrow

        batches = (
            batch.rows if self.holds_placeless else batch.rows.filter(pa.array(~np.isnan(batch.bounds[:, 0])))
            for batch in feature_batches(records, run, options)
        )
        rows = pa.RecordBatchReader.from_batches(schema(), batches)
        with atomic_write(path) as temporary:
            temporary.unlink()  # an empty file is none that GDAL writes into
            try:
                write_arrow(
                    rows,
                    temporary,
                    layer="instances",
                    driver=self.driver,
                    geometry_name=GEOMETRY,
                    geometry_type="MultiPolygon",
                    crs="EPSG:4326",
                )
            except RuntimeError as error:  # what pyogrio's are
                raise OSError(f"{path}: {one_line(error)}") from None
        return 0


class FlatgeobufWriter(_VectorFile):
    """Writes `instances.fgb`."""

    name, files, driver = "flatgeobuf", "instances.fgb", "FlatGeobuf"
    holds_placeless = False


class GeopackageWriter(_VectorFile):
    """Writes `instances.gpkg`."""

    name, files, driver = "geopackage", "instances.gpkg", "GPKG"
