"""What the atmosphere, the optics, the sensor and the downlink do to a scene, at five severities.

In the manner of Hendrycks and Dietterich (arXiv 1903.12261), with what matters from above. A new corruption is a file
here and a line at the end of `CORRUPTIONS`.
"""

from __future__ import annotations

import numpy as np

from resam_benchmarks.robustness.corruptions.blur import BLUR
from resam_benchmarks.robustness.corruptions.brightness import BRIGHTNESS
from resam_benchmarks.robustness.corruptions.corruption import SEVERITIES, Corruption, Image
from resam_benchmarks.robustness.corruptions.haze import HAZE
from resam_benchmarks.robustness.corruptions.jpeg import JPEG
from resam_benchmarks.robustness.corruptions.noise import NOISE

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupt"]

CORRUPTIONS = {corruption.name: corruption for corruption in (NOISE, BLUR, HAZE, BRIGHTNESS, JPEG)}
"""The place of a corruption is part of its seed: keep the order."""


def corrupt(image: Image, kind: str, severity: int, seed: int = 0) -> Image:
    """The image (H, W, 3) uint8 after a corruption of `CORRUPTIONS` at severity 1 to 5; severity 0 changes nothing.

    The same arguments give the same bytes. Raises `ValueError` for another kind or severity.
    """
    if kind not in CORRUPTIONS or severity not in (0, *SEVERITIES):
        raise ValueError(f"expected one of {', '.join(CORRUPTIONS)} at 0 to 5, got {kind!r} at {severity}")
    if severity == 0:
        return image
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(kind), severity])
    corruption = CORRUPTIONS[kind]
    changed = corruption.apply(image, corruption.levels[severity - 1], rng)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
