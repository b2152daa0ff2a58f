# One image for a laptop, Kubernetes and Slurm: docs/clusters.md walks each.
#
#   docker build -t hvdkit .                                   torch, CPU
#   docker build -t hvdkit --build-arg FRAMEWORKS=both .       torch and TensorFlow, CPU
#   docker build -t hvdkit --build-arg VARIANT=gpu .           torch, CUDA 13
#   docker build -t hvdkit --build-arg VARIANT=gpu --build-arg FRAMEWORKS=tensorflow .   CUDA 12
#
# From what changes rarely to what changes often: system packages, frameworks, what hvdkit
# imports, Horovod (minutes of compiling), hvdkit itself.

ARG VARIANT=cpu
ARG FRAMEWORKS=torch
# Any Debian or Ubuntu with Python 3.10 or newer. Building and running stages of one pair share
# a release, because the environment that one makes runs in the other.
ARG CPU_BASE=debian:bookworm-slim
ARG CUDA_13_DEVEL=nvidia/cuda:13.0.1-devel-ubuntu24.04
ARG CUDA_13_RUNTIME=nvidia/cuda:13.0.1-base-ubuntu24.04
ARG CUDA_12_DEVEL=nvidia/cuda:12.9.1-devel-ubuntu24.04
ARG CUDA_12_RUNTIME=nvidia/cuda:12.9.1-base-ubuntu24.04

FROM ${CPU_BASE} AS devel-cpu-torch
FROM ${CPU_BASE} AS devel-cpu-tensorflow
FROM ${CPU_BASE} AS devel-cpu-both
FROM ${CUDA_13_DEVEL} AS devel-gpu-torch
FROM ${CUDA_12_DEVEL} AS devel-gpu-tensorflow
FROM ${CPU_BASE} AS devel-gpu-both
FROM ${CPU_BASE} AS runtime-cpu-torch
FROM ${CPU_BASE} AS runtime-cpu-tensorflow
FROM ${CPU_BASE} AS runtime-cpu-both
FROM ${CUDA_13_RUNTIME} AS runtime-gpu-torch
FROM ${CUDA_12_RUNTIME} AS runtime-gpu-tensorflow
FROM ${CPU_BASE} AS runtime-gpu-both


# hadolint ignore=DL3006
FROM devel-${VARIANT}-${FRAMEWORKS} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG VARIANT
ARG FRAMEWORKS
RUN if [ "$VARIANT-$FRAMEWORKS" = gpu-both ]; then \
      echo "VARIANT=gpu has no FRAMEWORKS=both: torch's GPU wheels want CUDA 13 and TensorFlow's" \
        "CUDA 12, and one Horovod is linked to one CUDA. Build one image a framework." >&2; \
      exit 1; \
    fi
# Debian takes a superseded version off its mirrors, so that a pin here would break, not repeat.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates cmake g++ make openssh-client python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
ENV PATH=/opt/hvdkit/bin:$PATH \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN python3 -m venv /opt/hvdkit
# Where packages come from, beside pip's default: an index that has torch's CPU build, a mirror.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_INDEX_URL
COPY deploy/image/constraints.txt ./
COPY deploy/image/frameworks ./frameworks/
RUN pip install --requirement "frameworks/$VARIANT-$FRAMEWORKS.txt" \
 && if [ "$VARIANT" = cpu ] && pip list | grep --quiet ^nvidia-; then \
      echo "NOTE: pip's index gave this CPU image torch's CUDA build, gigabytes larger." \
        "--build-arg PIP_EXTRA_INDEX_URL=... names an index that has the CPU build." >&2; \
    fi
COPY setup.cfg ./
RUN python -c "from configparser import ConfigParser as C; c = C(); c.read('setup.cfg'); \
      print(c['options']['install_requires'], c['options.extras_require']['optuna'])" \
      > requirements.txt \
 && pip install --requirement requirements.txt
# Only what builds Horovod, so that no other change of hvdkit's builds it anew.
COPY hvdkit/__init__.py hvdkit/__main__.py hvdkit/cli.py hvdkit/errors.py ./hvdkit/
COPY hvdkit/bench/__init__.py hvdkit/bench/flags.py hvdkit/bench/units.py ./hvdkit/bench/
COPY hvdkit/install ./hvdkit/install/
COPY hvdkit/launch/__init__.py hvdkit/launch/cache.py ./hvdkit/launch/
# GPU architectures to compile for, as in 80,90; they follow the CUDA toolkit where none is named.
ARG CUDA_ARCH=80,86,89,90
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/var/cache/hvdkit \
    case "$VARIANT" in cpu) gpu=--no-gpu ;; gpu) gpu="--gpu --cuda-arch=$CUDA_ARCH" ;; esac; \
    PYTHONPATH=/build python -m hvdkit build-horovod --mpi $gpu --cache-dir /var/cache/hvdkit
COPY . ./source/
RUN pip install --no-deps --no-build-isolation ./source


# hadolint ignore=DL3006
FROM runtime-${VARIANT}-${FRAMEWORKS} AS image
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG VARIANT
ARG FRAMEWORKS
# torch.compile calls a C++ compiler while it trains. `--build-arg COMPILER=` leaves it out.
ARG COMPILER="g++ python3-dev"
# The host keys that openssh-server makes for itself would be the same in every container.
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates libnss-wrapper openssh-client openssh-server python3 tini $COMPILER \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /etc/ssh/ssh_host_* \
 && if id ubuntu > /dev/null 2>&1; then userdel --remove ubuntu; fi \
 && useradd --uid 1000 --gid 0 --create-home --home-dir /home/hvdkit --shell /bin/bash \
      --password '*' hvdkit \
 && mkdir --mode 700 /home/hvdkit/.ssh \
 && mkdir /workspace \
 && chown -R 1000:0 /home/hvdkit /workspace \
 && chmod -R g=u /home/hvdkit /workspace
COPY --from=build /opt/hvdkit /opt/hvdkit
COPY deploy/image/sshd_config /etc/ssh/sshd_config
COPY deploy/image/ssh_config /etc/ssh/ssh_config.d/hvdkit.conf
COPY deploy/image/entrypoint deploy/image/known-hosts /usr/local/lib/hvdkit/
COPY --chown=1000:0 recipes /workspace/recipes
# Open MPI in a container: the kernel's single copy between processes needs ptrace, which the
# default seccomp profile forbids; and cores are the container's quota, so nothing is bound to
# core 0, 1, ... that other containers are bound to as well.
ENV PATH=/opt/hvdkit/bin:$PATH \
    HOME=/home/hvdkit \
    OPAL_PREFIX=/opt/hvdkit \
    OMPI_MCA_btl_vader_single_copy_mechanism=none \
    OMPI_MCA_hwloc_base_binding_policy=none \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /workspace
# Two real ranks in each framework: an image whose Horovod, MPI and frameworks do not fit fails
# here. There is no GPU while an image is built.
RUN horovodrun --check-build \
 && for framework in $(if [ "$FRAMEWORKS" = both ]; then echo torch tensorflow; else echo "$FRAMEWORKS"; fi); do \
      CUDA_VISIBLE_DEVICES="" hvdkit launch -np 2 recipes/vision.py "framework=$framework" \
        trainer.num_steps=3 "hydra.run.dir=/tmp/smoke-$framework"; \
    done \
 && rm -rf /tmp/smoke-*
EXPOSE 2222
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/lib/hvdkit/entrypoint"]
CMD ["hvdkit", "--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hvdkit" \
      org.opencontainers.image.description="Training over Horovod: ${FRAMEWORKS}, ${VARIANT}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      hvdkit.frameworks="${FRAMEWORKS}" \
      hvdkit.variant="${VARIANT}"
