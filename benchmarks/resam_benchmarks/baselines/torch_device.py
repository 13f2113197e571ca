"""Which device torch computes on, by the names that the commands take."""

from __future__ import annotations

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.backends import DEVICES


def torch_device(device: str | None) -> str:
    """ "cpu", "cuda" or "cuda:1" for a device as the commands name it; None: CUDA where there is one, else the CPU.

    A backend's other ways to run on a GPU are CUDA here. Raises `ResamError` for a device that torch does not have.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    word, _, number = device.partition(":")
    if word not in DEVICES or (":" in device and (word == "cpu" or not number.isdigit())):
        raise ResamError(f"--device {device}: expected cpu, cuda, or cuda:1")
    kind = word if word == "cpu" else "cuda"
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        found = f"torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices"
        raise ResamError(f"--device {device}: {found}; use --device cpu")
    return kind + device[len(word) :]
