# The gateway. Built from the repository's root; the base image is given by its digest, so that a build can be repeated:
#
#   docker build -f deploy/docker/gateway.Dockerfile --build-arg BASE=python:3.11-slim-bookworm@sha256:… -t llm-gateway .
#
# Runs as user 10001 with a read-only root: what it writes is below /var/lib/llm-gateway, which is to be a volume that
# outlives the container, for the ledger is there.
ARG BASE

FROM ${BASE:?give a Python image (3.11 or newer) by its digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...} AS build
ARG BASE
RUN case "$BASE" in *@sha256:*) ;; *) echo "BASE=$BASE is not pinned: add its @sha256: digest" >&2; exit 1 ;; esac
# `clouds` brings the credentials of AWS, Azure, Google and Oracle along; `base` is enough for API keys.
ARG REQUIREMENTS=clouds
WORKDIR /src
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements/ requirements/
RUN python -m venv /opt/llm-gateway \
 && /opt/llm-gateway/bin/pip install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements/compiler.txt -r "requirements/$REQUIREMENTS.txt"
COPY pyproject.toml setup.py README.md ./
COPY gateway/ gateway/
# The hot modules are compiled, from the same sources. What compiles them stays in this stage.
RUN GATEWAY_COMPILED=1 /opt/llm-gateway/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && /opt/llm-gateway/bin/pip uninstall --yes \
      ast-serialize librt mypy mypy-extensions pathspec setuptools types-pyyaml pip

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llm-gateway" \
      org.opencontainers.image.description="One door to every model: a router gateway that speaks the OpenAI API" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/llm-gateway
COPY --from=build /opt/llm-gateway /opt/llm-gateway
ENV PATH=/opt/llm-gateway/bin:$PATH \
    HOME=/var/lib/llm-gateway \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib \
    GATEWAY_CONFIG=/etc/llm-gateway
USER 10001:10001
WORKDIR /var/lib/llm-gateway
VOLUME /var/lib/llm-gateway
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8081/healthz', timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "--host", "0.0.0.0", "--admin-host", "0.0.0.0"]
