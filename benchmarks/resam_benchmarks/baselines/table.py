"""The baselines. A new one is a file here and a line in `BASELINES`."""

from __future__ import annotations

from resam_benchmarks.baselines.onnx_per_prompt import ONNX_PER_PROMPT
from resam_benchmarks.baselines.segment_anything import SEGMENT_ANYTHING
from resam_benchmarks.baselines.torch_modules import TORCH

BASELINES = {baseline.name: baseline for baseline in (SEGMENT_ANYTHING, ONNX_PER_PROMPT, TORCH)}
