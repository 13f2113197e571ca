"""Baseline `segment-anything`: SamPredictor with the package's own modules in torch, prompted instance by instance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.baselines.baseline import Baseline
from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings, OnePrompt, PromptByPrompt
from resam_benchmarks.baselines.torch_device import torch_device
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.contender import Image
from resam_runtime.engine.precisions import FP32


class SegmentAnything(PromptByPrompt):
    """See `Contender`. The predictor keeps the embedding itself, so only the last image's can be prompted."""

    def __init__(
        self, weights: Weights, settings: LoopSettings, device: str | None = None, threads: int | None = None
    ) -> None:
        import torch
        from segment_anything import SamPredictor

        if threads:
            torch.set_num_threads(threads)
        self.settings = settings
        self._torch, self._device = torch, torch_device(device)
        self._predictor = SamPredictor(weights.load().sam.to(self._device))

    def encode(self, image: Image) -> Any:
        """See `Contender`."""
        self._predictor.set_image(image)
        return self._predictor

    def predict(self, embedding: Any, prompt: OnePrompt) -> tuple[NDArray[np.float32], float]:
        """See `PromptByPrompt`."""
        logits, score, _ = embedding.predict(
            prompt.coords, prompt.labels, prompt.box, multimask_output=False, return_logits=True
        )
        return logits[0], float(score[0])

    def synchronize(self) -> None:
        """See `Contender`."""
        if self._device.startswith("cuda"):
            self._torch.cuda.synchronize()

    def describe(self) -> str:
        """See `Contender`."""
        threads = f", {self._torch.get_num_threads()} threads" if self._device == "cpu" else ""
        return (
            f"segment-anything's SamPredictor, torch {self._torch.__version__}, {self._device}{threads}, {FP32.title}"
        )


SEGMENT_ANYTHING = Baseline("segment-anything", SegmentAnything)
