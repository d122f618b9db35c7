# The one image of the mesh: istiod, istio-cni-node, ztunnel and waypoints are `python -m tulle.istiod`, `.cni`, `.ztunnel` and `.waypoint` in it.
#   docker build -t tulle/tulle:0.1.0 .
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-pip && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9
ENV UV_PYTHON=/usr/bin/python3 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/tulle
WORKDIR /src
# What the lock file names first: it changes less often than the source, and makes a layer of its own.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-project
COPY src src
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-editable

FROM debian:bookworm-slim
# nft and ip are what the node agent works with; the certificates are for extension providers outside the cluster.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 nftables iproute2 ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tulle /opt/tulle
ENV PATH=/opt/tulle/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# As tulle.cluster.heap has it, where it says why.
ENV MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=65536
CMD ["python", "-c", "import tulle; print(tulle.__version__)"]
