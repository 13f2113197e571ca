# The runtime on an Orin with JetPack 6.1 or later: TensorRT and CUDA from NVIDIA's image, resam beside them.
# BASE: the image's name, with its registry where your engine needs one; its release must be that of the board.
ARG BASE=nvidia/l4t-jetpack:r36.4.0
ARG BUILDER=python:3.12-slim

FROM ${BUILDER} AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv python3-libnvinfer libnvinfer-bin \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheel /wheel
RUN python3 -m venv --system-site-packages /opt/resam \
    && /opt/resam/bin/pip install --no-cache-dir /wheel/resam-*-py3-none-any.whl "cuda-bindings<13" \
    && rm -r /wheel \
    && useradd --create-home --groups video resam
ENV PATH=/opt/resam/bin:$PATH
USER resam
WORKDIR /data
ENTRYPOINT ["resam-run"]
CMD ["--help"]
