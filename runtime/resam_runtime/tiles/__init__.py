"""Tiles over a scene: how they are cut, which prompt belongs to which, and how a scene's pixels become a tile's."""
