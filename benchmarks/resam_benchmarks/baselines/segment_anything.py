"""Baseline `segment-anything`: SamPredictor with the package's own modules in torch, prompted instance by instance."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor

from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings, OnePrompt, PromptByPrompt
from resam_benchmarks.baselines.torch_device import torch_device
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.contender import Image


class SegmentAnything(PromptByPrompt):
    """See `Contender`. The predictor keeps the embedding itself, so only the last image's can be prompted."""

    def __init__(
        self, weights: Weights, settings: LoopSettings, device: str | None = None, threads: int | None = None
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.settings = settings
        self._device = torch_device(device)
        self._predictor = SamPredictor(weights.load().sam.to(self._device))

    def encode(self, image: Image) -> SamPredictor:
        """See `Contender`."""
        self._predictor.set_image(image)
        return self._predictor

    def predict(self, embedding: SamPredictor, prompt: OnePrompt) -> tuple[NDArray[np.float32], float]:
        """See `PromptByPrompt`."""
        logits, score, _ = embedding.predict(
            prompt.coords, prompt.labels, prompt.box, multimask_output=False, return_logits=True
        )
        return logits[0], float(score[0])

    def synchronize(self) -> None:
        """See `Contender`."""
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()

    def describe(self) -> str:
        """See `Contender`."""
        threads = f", {torch.get_num_threads()} threads" if self._device == "cpu" else ""
        return f"segment-anything's SamPredictor, torch {torch.__version__}, {self._device}{threads}, fp32"
