# The runtime on a Thor with JetPack 7: TensorRT and CUDA 13 from NVIDIA's image, resam beside them.
# BASE: the image's name, with its registry where your engine needs one.
ARG BASE=nvidia/tensorrt:25.08-py3
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
RUN python3 -m venv --system-site-packages /opt/resam \
    && /opt/resam/bin/pip install --no-cache-dir /wheel/resam-*-py3-none-any.whl "cuda-bindings<14" \
    && rm -r /wheel \
    && useradd --create-home --groups video resam
ENV PATH=/opt/resam/bin:$PATH
USER resam
WORKDIR /data
ENTRYPOINT ["resam-run"]
CMD ["--help"]
