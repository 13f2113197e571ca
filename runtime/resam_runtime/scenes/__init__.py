"""Scenes: files of any size and type, read window by window as RGB, and where they lie on the map."""

from resam_runtime.scenes.georeference import Georeference
from resam_runtime.scenes.scene import Scene, open_scene
from resam_runtime.scenes.scene_info import SceneInfo

__all__ = ["Georeference", "Scene", "SceneInfo", "open_scene"]
