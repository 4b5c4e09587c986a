# The training image: one of two stacks of pinned versions, chosen by STACK. It runs as any user, on a read-only root.
# By its digest, which no registry can give anything else for; for newer fixes of Debian's name a newer one.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
FROM ${PYTHON_IMAGE}

# tini is process 1 of whatever the image runs; the chart's workers have their own (launcher/pid1.py), which also ends a
# stopped launcher. g++ compiles the training step's kernels for the processor they run on. tcmalloc and Intel's OpenMP stand where the
# chart's envVars.ldPreload looks for them, whatever versions the packages have.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev libgoogle-perftools4 tini \
    && rm -rf /var/lib/apt/lists/* \
    && lib=/usr/lib/x86_64-linux-gnu \
    && { test -e "$lib/libtcmalloc.so.4.5.9" || ln -s libtcmalloc.so.4 "$lib/libtcmalloc.so.4.5.9"; }

WORKDIR /workspace
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH
# intel: torch with Intel's extension and the backend ccl, for Xeons. upstream: the newest torch, with gloo.
ARG STACK=intel
# Holds the CPU wheels of torch. Where it does not answer, the package registry's are taken: 4 GB larger.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Intel's index, for the stack intel. Empty: without the binding of the backend ccl.
ARG CCL_INDEX=https://pytorch-extension.intel.com/release-whl/stable/cpu/us/
COPY pyproject.toml ./
COPY requirements requirements
RUN pip install --no-cache-dir --no-deps --require-hashes --prefix /tmp/openmp --requirement requirements/openmp.txt \
    && find /tmp/openmp -name libiomp5.so -exec cp {} /usr/local/lib/ ';' \
    && rm -r /tmp/openmp \
    && test -e /usr/local/lib/libiomp5.so
RUN pip install --no-cache-dir --require-hashes --target /tmp/uv --requirement requirements/uv.txt \
    && python -m venv --without-pip "$VIRTUAL_ENV" \
    && PATH="$PATH:/tmp/uv/bin" UV_NO_CACHE=1 requirements/install.sh "$STACK" --requirement pyproject.toml --extra mlflow \
    && rm -r /tmp/uv

COPY LICENSE README.md values.yaml ./
COPY src src
COPY scripts scripts
# The package stays where `distributed.script` names it; the command `llm-finetune` runs the same files.
RUN pip install --no-cache-dir --require-hashes --target /tmp/build --requirement requirements/build.txt \
    && PYTHONPATH=/tmp/build pip --python "$VIRTUAL_ENV" install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && rm -r /tmp/build \
    && python -m compileall -q src scripts \
    && chmod -R a+rX . \
    && llm-finetune --help >/dev/null

# A user without an entry in /etc/passwd has neither name nor home, and torch asks for both.
ENV HOME=/tmp \
    USER=llm-finetune \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["tini", "--"]
CMD ["llm-finetune", "--help"]
LABEL org.opencontainers.image.title="llm-finetune" \
      org.opencontainers.image.description="Fine-tunes open language models on CPUs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm" \
      llm-finetune.stack="${STACK}"
