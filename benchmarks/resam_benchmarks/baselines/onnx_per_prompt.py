"""Baseline `onnx-per-prompt`: SAM's published ONNX decoder in ONNX Runtime, called once per prompt and pass.

The decoder is the package's own `SamOnnxModel` (with its `orig_im_size` input and full-size masks), exported as the
package's script exports it; the encoder is the package's image encoder, exported as it stands. No torch is loaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resam_benchmarks.baselines.baseline import Baseline, Prepared
from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings, OnePrompt, PromptByPrompt
from resam_benchmarks.baselines.published_export import DECODER, ENCODER, PublishedExporter, export_graphs
from resam_benchmarks.baselines.weights import PACKAGES, Weights
from resam_benchmarks.measure.contender import Image
from resam_benchmarks.measure.worker import Worker
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends.onnx import physical_cores
from resam_runtime.engine.precisions import FP32
from resam_runtime.tiles.letterbox import PIXEL_MEAN, PIXEL_STD


class OnnxPerPrompt(PromptByPrompt):
    """See `Contender`. folder: where `published_export.export_graphs` wrote; size: side of the tile in px."""

    def __init__(
        self, folder: str, size: int, settings: LoopSettings, device: str | None = None, threads: int | None = None
    ) -> None:
        import onnxruntime

        threads = threads or physical_cores()  # as the engines' own choice
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and device != "cpu"
        number = (device or "").partition(":")[2] or "0"
        providers: list[Any] = [("CUDAExecutionProvider", {"device_id": number})] * cuda + ["CPUExecutionProvider"]
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(str(Path(folder) / name), options, providers=providers)
            for name in (ENCODER, DECODER)
        )
        self._where = self._encoder.get_providers()[0].removesuffix("ExecutionProvider")
        if device not in (None, "cpu") and self._where == "CPU":  # nobody should read a CPU's time as a GPU's
            raise ResamError(f"onnx-per-prompt: device {device!r} did not start in ONNX Runtime; use --device cpu")
        self._version, self._threads = onnxruntime.__version__, threads
        self._size, self.settings = size, settings
        grid = self._encoder.get_outputs()[0].shape[-1]
        self._no_mask = np.zeros((1, 1, 4 * grid, 4 * grid), np.float32)

    def encode(self, image: Image) -> Any:
        """The embedding (1, C, G, G) and the scene's (H, W); resized, normalised and padded as the package does it."""
        import cv2

        height, width = image.shape[:2]
        new_height, new_width = self._scaled(height, width)
        resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        pixels = (resized.astype(np.float32) - np.array(PIXEL_MEAN, np.float32)) / np.array(PIXEL_STD, np.float32)
        padded = np.zeros((1, 3, self._size, self._size), np.float32)
        padded[0, :, :new_height, :new_width] = pixels.transpose(2, 0, 1)
        return self._encoder.run(None, {"image": padded})[0], (height, width)

    def predict(self, embedding: Any, prompt: OnePrompt) -> tuple[NDArray[np.float32], float]:
        """See `PromptByPrompt`."""
        features, (height, width) = embedding
        # as SAM's notebook: box corners are points labelled 2 and 3; without a box one padding point is added
        box = prompt.box
        coords, labels = (np.zeros((1, 2)), [-1]) if box is None else (box.reshape(2, 2), [2, 3])
        if prompt.coords is not None and prompt.labels is not None:
            coords, labels = np.concatenate([prompt.coords, coords]), [*prompt.labels, *labels]
        new_height, new_width = self._scaled(height, width)
        scaled = coords * (new_width / width, new_height / height)
        mask, score, _ = self._decoder.run(
            None,
            {
                "image_embeddings": features,
                "point_coords": scaled[None].astype(np.float32),
                "point_labels": np.array([labels], np.float32),
                "mask_input": self._no_mask,
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array([height, width], np.float32),
            },
        )
        return mask[0, 0], float(score[0, 0])

    def synchronize(self) -> None:
        """Nothing to wait for: arrays arrive on the host."""

    def describe(self) -> str:
        """See `Contender`."""
        threads = f", {self._threads} threads" if self._where == "CPU" else ""
        return f"SAM's ONNX decoder, ONNX Runtime {self._version}, {self._where}{threads}, {FP32.title}"

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        scale = self._size / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)


def _published(weights: Weights, folder: Path) -> Prepared:
    with Worker(f"{PublishedExporter.__module__}:{PublishedExporter.__name__}") as worker:
        size = worker.call(export_graphs, weights, str(folder))
    return Prepared({"folder": str(folder), "size": size}, sum(file.stat().st_size for file in folder.iterdir()))


ONNX_PER_PROMPT = Baseline("onnx-per-prompt", OnnxPerPrompt, _published, (*PACKAGES, "onnx"), "train,export")
