"""ONNX graphs to TensorRT plans, on the device that will run them: needs TensorRT, numpy and the runtime, no torch.

`build.build_plan` does the work; `versions` holds what differs between TensorRT 10.3 and 11, `profiles` the range of
shapes, `log` what TensorRT's messages mean, `phases` its progress, `timing_cache` its memory.
"""
