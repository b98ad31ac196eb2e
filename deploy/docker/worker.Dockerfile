# The inference worker on CPUs. Built from the repository's root:
#
#   docker build -f deploy/docker/worker.Dockerfile --build-arg BASE=python:3.11-slim-bookworm@sha256:… -t llm-worker .
#
# Runs as user 10001 with a read-only root. Models and compiled executables go to /var/cache/llm-gateway: give it a
# volume, else each start fetches and compiles anew. pip stays in the image, since it is what fetches models.
ARG BASE

FROM ${BASE:?give a Python image (3.11 or newer) by its digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...} AS build
ARG BASE
RUN case "$BASE" in *@sha256:*) ;; *) echo "BASE=$BASE is not pinned: add its @sha256: digest" >&2; exit 1 ;; esac
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/llm-worker \
 && /opt/llm-worker/bin/pip install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements/build.txt -r requirements/worker.txt
COPY pyproject.toml README.md ./
COPY gateway/ gateway/
COPY workers/ workers/
RUN /opt/llm-worker/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llm-worker" \
      org.opencontainers.image.description="Inference worker of llm-gateway, for CPUs" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
RUN install -d -o 10001 -g 10001 -m 0750 /var/cache/llm-gateway
COPY --from=build /opt/llm-worker /opt/llm-worker
ENV PATH=/opt/llm-worker/bin:$PATH \
    HOME=/var/cache/llm-gateway \
    XDG_CACHE_HOME=/var/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/cache/llm-gateway
VOLUME /var/cache/llm-gateway
EXPOSE 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8090/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "workers.trainium"]
CMD ["serve", "--host", "0.0.0.0", "--device", "cpu"]
