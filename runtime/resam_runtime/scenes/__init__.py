"""Scenes: files of any size and type, read window by window as RGB, and where they lie on the map."""

from resam_runtime.scenes.scene import Scene, open_scene

__all__ = ["Scene", "open_scene"]
