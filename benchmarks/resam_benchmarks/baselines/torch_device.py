"""Which device torch computes on, by the names that the commands take."""

from __future__ import annotations

import torch

from resam_runtime.common.errors import ResamError


def torch_device(device: str | None) -> str:
    """ "cpu", "cuda" or "cuda:1" for a device as the commands name it; None: CUDA where there is one, else the CPU.

    "tensorrt-ep" is a way of ONNX Runtime's to run on CUDA, so it is CUDA here. Raises `ResamError` for a device that
    torch does not have.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    name = device.replace("tensorrt-ep", "cuda")
    kind, _, number = name.partition(":")
    if name not in ("cpu", "cuda", f"cuda:{number}") or (":" in name and not number.isdigit()):
        raise ResamError(f"--device {device}: expected cpu, cuda, or cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ResamError(
            f"--device {device}: torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return name
