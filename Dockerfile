# syntax=docker/dockerfile:1
# The image of every Pod: controller, Ray's nodes, engines. Two targets, `cpu` and `cuda`:
#   docker build --target cuda --tag torpor:0.1.0-cuda .
# The base is pinned by digest. Both stages need the same one: the environment is made in the first
# and moved as it is. To move on: docker buildx imagetools inspect python:3.12-slim-bookworm
ARG BASE_IMAGE=python:3.12.14-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

# The environment, as scripts/setup makes it anywhere: pinned and hashed packages.
FROM ${BASE_IMAGE} AS sources
# Compiled here, since Pods have a read-only root.
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/torpor
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY scripts/setup scripts/setup
COPY controller controller
COPY workers workers
COPY kv_store kv_store
COPY benchmarks benchmarks

FROM sources AS environment-cpu
RUN --mount=type=cache,target=/root/.cache TORPOR_DEVICE=cpu scripts/setup \
    && .venv/bin/python -m compileall -q controller workers kv_store benchmarks

FROM sources AS environment-cuda
RUN --mount=type=cache,target=/root/.cache TORPOR_DEVICE=cuda scripts/setup \
    && .venv/bin/python -m compileall -q controller workers kv_store benchmarks

FROM ${BASE_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="torpor" \
      org.opencontainers.image.description="Several models behind one OpenAI-compatible address, more than fit awake at once" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Triton and torch compile when an engine starts. Debian keeps one version of each package, so none
# is pinned here: the base is.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home torpor \
    && install --directory --owner=torpor --group=torpor /var/lib/torpor /var/cache/torpor
ENV PATH=/opt/torpor/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TORPOR_STATE_DIR=/var/lib/torpor
WORKDIR /home/torpor
USER 1000:1000
EXPOSE 8000
# Of `torpor serve`; Kubernetes has probes of its own.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["torpor"]
CMD ["serve", "/etc/torpor/fleet.yaml"]

FROM runtime AS cpu
COPY --from=environment-cpu /opt/torpor /opt/torpor

FROM runtime AS cuda
# Which GPUs a container sees is said by whoever starts it: head and controller shall see none.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=environment-cuda /opt/torpor /opt/torpor
