"""Points files of several kinds, beside a scene or one for all; docs/formats.md shows them."""

from __future__ import annotations

from resam_runtime.points.file_kinds import POINT_KINDS, SUFFIXES
from resam_runtime.points.files import PointsFile, find_points, path_ends, read_points, shared_names
from resam_runtime.points.prompts import Prompt, ScenePoints, Skipped, check_prompts

__all__ = [
    "POINT_KINDS",
    "SUFFIXES",
    "PointsFile",
    "Prompt",
    "ScenePoints",
    "Skipped",
    "check_prompts",
    "find_points",
    "path_ends",
    "read_points",
    "shared_names",
]
