# One file, two images:
#
#   docker build --target service  -t voisin:0.1.0 .                             serves; no torch, CPU
#   docker build --target service  --build-arg RUNTIME=gpu -t voisin:0.1.0-gpu . the same on CUDA
#   docker build --target training -t voisin-training:0.1.0 .                    trains and exports
#
# Versions come from constraints.txt (and, for RUNTIME=gpu, deploy/constraints-gpu.txt). CUDA and cuDNN are Python
# wheels, so both runtimes stand on the same slim base; the host brings the driver.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# --- what installs; nothing of it but /opt/voisin and one static binary goes further
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# a first process that passes signals on and buries orphans; the Debian package is built for every architecture.
# A C compiler for the kernels of bundle/native, which go further, while it does not
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/*
# without pip: the service needs no installer, and neither does whoever breaks in
RUN python3 -m venv --without-pip /opt/voisin
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY deploy/constraints-gpu.txt deploy/

# --- the service's libraries, in a layer that new code leaves alone
FROM build AS build-service
ARG RUNTIME=cpu
RUN pins="-c constraints.txt"; \
    case "$RUNTIME" in \
        cpu) ;; \
        gpu) pins="$pins -c deploy/constraints-gpu.txt" ;; \
        *) echo "RUNTIME=$RUNTIME: must be cpu or gpu" >&2; exit 1 ;; \
    esac; \
    python3 -m pip --python /opt/voisin install $pins ".[$RUNTIME,tracing]"
# where the loader looks for CUDA: the wheels spread it over folders that it does not know; empty for RUNTIME=cpu
RUN mkdir /opt/voisin/cuda \
    && find /opt/voisin/lib -path "*/nvidia/*/lib/*.so*" -exec ln -s {} /opt/voisin/cuda/ \;
COPY bundle bundle
COPY service service
RUN python3 -m pip --python /opt/voisin install --no-deps --force-reinstall . \
    && rm -f /opt/voisin/bin/voisin-train /opt/voisin/bin/voisin-export

FROM build AS build-training
RUN python3 -m pip --python /opt/voisin install -c constraints.txt ".[training]"
COPY bundle bundle
COPY training training
COPY export export
COPY service service
RUN python3 -m pip --python /opt/voisin install --no-deps --force-reinstall .

# --- trains and exports: `docker run -v "$PWD:/job" voisin-training voisin-train RECIPE --run runs/NAME`
FROM ${BASE} AS training
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="voisin-training" \
      org.opencontainers.image.description="Trains word vectors, language models and translators and exports them as bundles." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /usr/bin/tini-static /usr/local/bin/tini
COPY --from=build-training /opt/voisin /opt/voisin
# Matplotlib, the hub and fetched corpora write below a home: that is /tmp, so the root may be read-only
ENV PATH=/opt/voisin/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /job
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["voisin-train", "--help"]

# --- serves (the last stage is the one built without --target)
FROM ${BASE} AS service
ARG VERSION=0.1.0
ARG REVISION=unknown
# the folder of bundles that is baked in; a volume mounted on /models takes their place
ARG MODELS=models
LABEL org.opencontainers.image.title="voisin" \
      org.opencontainers.image.description="Nearest words, text completion and French-English translation over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /usr/bin/tini-static /usr/local/bin/tini
COPY --from=build-service /opt/voisin /opt/voisin
COPY ${MODELS} /models
ENV PATH=/opt/voisin/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp LD_LIBRARY_PATH=/opt/voisin/cuda \
    VOISIN_HOST=0.0.0.0 VOISIN_LISTEN_PORT=8000 VOISIN_MODELS=/models
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# for Docker and compose; Kubernetes has its own probes and does not read it
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['VOISIN_LISTEN_PORT'] + '/health/ready', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "service"]
