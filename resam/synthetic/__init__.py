"""Synthetic satellite-like scenes with exact instance masks: the target domain of demo, tests and benchmarks.

`python -m resam.synthetic FOLDER` writes a COCO data set. Needs numpy and OpenCV only.
"""

from resam.synthetic.dataset import write_dataset
from resam.synthetic.scenes import CATEGORIES, KINDS, SyntheticScene, generate_scene

__all__ = ["CATEGORIES", "KINDS", "SyntheticScene", "generate_scene", "write_dataset"]
