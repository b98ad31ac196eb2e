# The inference worker on AWS Trainium and Inferentia. The base is one of AWS's Neuron images with JAX, by its digest:
# Neuron's packages come from AWS's own repository, never from the public index, whose packages of these names are empty.
#
#   docker build -f deploy/docker/worker-neuron.Dockerfile --build-arg BASE=<AWS Neuron image>@sha256:… -t llm-worker-neuron .
#
# Not built or run by us yet: no Neuron device was at hand. Runs as user 10001 with a read-only root; /dev/neuron* comes
# from the device plugin. Models and compiled executables (NEFF) go to /var/cache/llm-gateway: give it a volume, for a
# compilation takes minutes.
ARG BASE

FROM ${BASE:?give an image of AWS with JAX for Neuron by its digest: --build-arg BASE=...@sha256:...}
ARG BASE
RUN case "$BASE" in *@sha256:*) ;; *) echo "BASE=$BASE is not pinned: add its @sha256: digest" >&2; exit 1 ;; esac
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llm-worker-neuron" \
      org.opencontainers.image.description="Inference worker of llm-gateway, for AWS Neuron" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
USER root
WORKDIR /src
COPY requirements/ requirements/
# Into the image's own Python, beside its Neuron plugin.
RUN python -m pip install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements/build.txt -r requirements/worker.txt
COPY pyproject.toml README.md ./
COPY gateway/ gateway/
COPY workers/ workers/
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation . \
 && python -c "from importlib.metadata import version as v; n = v('libneuronxla'); assert int(n.split('.')[0]) >= 2, n" \
 && install -d -o 10001 -g 10001 -m 0750 /var/cache/llm-gateway
ENV HOME=/var/cache/llm-gateway \
    XDG_CACHE_HOME=/var/cache \
    NEURON_COMPILE_CACHE_URL=/var/cache/llm-gateway/neff \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/cache/llm-gateway
VOLUME /var/cache/llm-gateway
EXPOSE 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8090/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "workers.trainium"]
CMD ["serve", "--host", "0.0.0.0", "--device", "neuron"]
