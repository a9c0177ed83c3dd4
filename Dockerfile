# The server with its models, in about 0.85 GB (0.55 with core.txt, see below). Nothing is written at
# run time but the artifact cache and collections, so the root file system may be read-only.
#
#   docker build -t millrace .
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp \
#       -v millrace-cache:/var/cache/millrace -v millrace:/var/lib/millrace millrace
#
# core.txt in place of serve.txt leaves out the libraries of vector search, PostgreSQL and learning:
#   docker build -t millrace --build-arg LOCK=core.txt .

ARG PYTHON=python:3.11-slim

FROM $PYTHON AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/millrace
ARG LOCK=serve.txt
COPY requirements/core.txt requirements/serve.txt /src/requirements/
RUN /opt/millrace/bin/pip install --no-compile -r /src/requirements/$LOCK
COPY pyproject.toml README.md LICENSE /src/
COPY engine /src/engine
COPY server /src/server
# What runs needs neither pip nor the packages' own tests, sources and stubs.
RUN /opt/millrace/bin/pip install --no-compile --no-deps /src \
    && /opt/millrace/bin/pip uninstall --yes pip setuptools \
    && rm -rf /opt/millrace/lib/python3*/site-packages/onnx/backend/test/data \
    && find /opt/millrace -depth -type d -name tests -path '*/numpy/*' -exec rm -rf {} + \
    && find /opt/millrace -type f -regex '.*\.\(c\|cc\|cpp\|h\|hpp\|pxd\|pyi\|pyx\|proto\)' -delete \
    && /opt/millrace/bin/python -m compileall -q -j 0 /opt/millrace/lib

FROM $PYTHON
LABEL org.opencontainers.image.title="millrace" \
      org.opencontainers.image.description="Serves neural networks (ONNX) over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin millrace \
    && install -d -o 10001 -g 10001 /var/cache/millrace /var/lib/millrace
COPY --from=build /opt/millrace /opt/millrace
COPY model_repo /models
ENV PATH=/opt/millrace/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MILLRACE_REPOSITORY=/models \
    MILLRACE_HOST=0.0.0.0 \
    MILLRACE_PORT=8000 \
    MILLRACE_CACHE_DIR=/var/cache/millrace \
    MILLRACE_COLLECTIONS=/var/lib/millrace/collections \
    MILLRACE_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['MILLRACE_PORT'] + '/v2/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["millrace"]
CMD ["serve"]
