# An image of mxworker for applications to build on:
#
#   FROM mxworker
#   COPY shop /app/shop
#   CMD ["run", "shop.orders:handlers"]
#
# The image runs without root, on a read-only file system, and as PID 1 without an init. A stop drains the service: give
# it more time than --drain-timeout, as in `docker run --stop-timeout 45`.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mxworker mxworker
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[fast]"

FROM python:3.13-slim
LABEL org.opencontainers.image.title="mxworker" \
      org.opencontainers.image.description="A multi-process RabbitMQ worker service for Python" \
      org.opencontainers.image.licenses="MIT"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels "mxworker[fast]" \
    && install --directory --owner=10001 --group=10001 --mode=0700 /run/mxworker \
    && mkdir /app
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    MXWORKER_APP_DIR=/app \
    RUNTIME_DIRECTORY=/run/mxworker
# The health check uses the control socket in this directory. A volume stays writable when the root is read-only.
VOLUME ["/run/mxworker"]
WORKDIR /app
USER 10001:10001
# For --http 0.0.0.0:9191, which needs --http-token-file; without it the service is served inside of the container alone.
EXPOSE 9191
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["mxworker", "status", "--healthy"]
ENTRYPOINT ["mxworker"]
CMD ["--help"]
