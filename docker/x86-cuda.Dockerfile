# The runtime on x86-64 with an NVIDIA GPU and CUDA 12: ONNX Runtime with CUDA, and TensorRT for plans. A CPU runs it too.
# BASE: the image's name, with its registry where your engine needs one.
ARG BASE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04
ARG BUILDER=python:3.12-slim

FROM ${BUILDER} AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheel /wheel
# onnxruntime and onnxruntime-gpu write the same folder: the first has to go before the second comes
RUN python3 -m venv /opt/resam \
    && /opt/resam/bin/pip install --no-cache-dir /wheel/resam-*-py3-none-any.whl "cuda-bindings<13" tensorrt-cu12 \
    && /opt/resam/bin/pip uninstall -y onnxruntime \
    && /opt/resam/bin/pip install --no-cache-dir "onnxruntime-gpu>=1.18" \
    && rm -r /wheel \
    && useradd --create-home --groups video resam
ENV PATH=/opt/resam/bin:$PATH
USER resam
WORKDIR /data
ENTRYPOINT ["resam-run"]
CMD ["--help"]
