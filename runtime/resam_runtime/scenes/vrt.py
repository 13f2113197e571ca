"""VRT, GDAL's raster that is a text: which of its words are read, and which files it may name.

A VRT is a mosaic or a selection of bands of rasters in its own folder and those below. One that names files elsewhere,
URLs or bare bytes, or that says things of which we do not know what they make GDAL open, is refused.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

from resam_runtime.common.errors import ResamError, one_line
from resam_runtime.common.files import open_regular

_LIMIT = 64 << 20
_SOURCES = frozenset({"SourceFilename", "SourceDataset"})
_CLASSES = frozenset({"", "VRTSourcedRasterBand", "VRTDerivedRasterBand", "VRTWarpedDataset", "VRTWarpedRasterBand"})
_WORDS = """
VRTDataset SRS GeoTransform GCPList GCP Metadata MDI MaskBand VRTRasterBand NoDataValue HideNoDataValue ColorInterp
Description UnitType Offset Scale CategoryNames Category ColorTable Entry Histograms HistItem HistMin HistMax
BucketCount IncludeOutOfRange Approximate HistCounts OverviewList Overview BlockXSize BlockYSize

SimpleSource ComplexSource AveragedSource NoDataFromMaskSource KernelFilteredSource SourceFilename SourceBand
SourceProperties SrcRect DstRect NODATA ScaleOffset ScaleRatio Exponent SrcMin SrcMax DstMin DstMax Clamp LUT
UseMaskBand ColorTableComponent Kernel Size Coefs MaskValueThreshold RemappedValue

PixelFunctionType PixelFunctionArguments SourceTransferType

GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option SourceDataset BandList BandMapping SrcNoDataReal
SrcNoDataImag DstNoDataReal DstNoDataImag SrcAlphaBand DstAlphaBand Transformer ApproxTransformer MaxError
BaseTransformer GenImgProjTransformer SrcGeoTransform SrcInvGeoTransform DstGeoTransform DstInvGeoTransform
ReprojectTransformer ReprojectionTransformer SourceSRS TargetSRS Options
"""
"""The elements that are read: of a dataset and its bands, of their sources, of GDAL's own functions, of maps drawn
anew."""
_KNOWN = frozenset(_WORDS.split())


def rewritten_vrt(path: Path, place: Callable[[Path], str]) -> str:
    """The text of a VRT in which each source is named by where `place` says that it is to be opened.

    Raises `ResamError` for what is not read, and what `place` raises for a source.
    """
    with open_regular(path) as file:
        text = file.read(_LIMIT + 1)
    if len(text) > _LIMIT or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ResamError(f"{path}: too large for a VRT, or with a document type; make a GeoTIFF of it")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ResamError(f"{path}: not XML ({one_line(error)})") from None
    for element in root.iter():
        kind = element.get("subClass", "")
        if element.tag not in _WORDS or kind not in _CLASSES:
            raise ResamError(
                f"{path}: {kind or element.tag} is not supported; convert it to GeoTIFF with gdal_translate"
            )
        if element.tag in _SOURCES:
            element.text = place(_source(path, element))
            element.set("relativeToVRT", "0")
    return ElementTree.tostring(root, encoding="unicode")


def _source(path: Path, element: ElementTree.Element) -> Path:
    name = (element.text or "").strip()
    source = path.parent / name if element.get("relativeToVRT", "0") == "1" else Path(name)
    inside = os.path.join(os.path.realpath(path.parent), "")
    if not name or "\0" in name or not os.path.realpath(source).startswith(inside):
        raise ResamError(
            f"{path}: names {name[:80]!r}; a VRT may name files in its own folder and below it: move it there, or "
            "make a GeoTIFF of it"
        )
    try:
        open_regular(source).close()
    except OSError as error:
        raise ResamError(f"{path}: names {name[:80]!r}: {error.strerror or error}") from None
    return Path(os.path.abspath(source))
