"""`nginx`: Debian with nginx and curl, as the official image is; serves a welcome page on port 80, logs to the
container's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tulle.cluster.node.images import debian, files
from tulle.cluster.node.images.model import Image, ImageConfig, docker_hub
from tulle.cluster.node.runtime.rootfs import Part

_MAIN = """user  nginx;
worker_processes  auto;
error_log  /var/log/nginx/error.log notice;
pid        /run/nginx.pid;

events {
    worker_connections  1024;
}

http {
    include       /etc/nginx/mime.types;
    default_type  application/octet-stream;
    log_format  main  '$remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer" '
                      '"$http_user_agent" "$http_x_forwarded_for"';
    access_log  /var/log/nginx/access.log  main;
    sendfile        on;
    keepalive_timeout  65;
    include /etc/nginx/conf.d/*.conf;
}
"""

_SITE = """server {
    listen       80;
    server_name  localhost;

    location / {
        root   /usr/share/nginx/html;
        index  index.html index.htm;
    }

    error_page   500 502 503 504  /50x.html;
    location = /50x.html {
        root   /usr/share/nginx/html;
    }
}
"""

_PAGE = """<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
<style>
html { color-scheme: light dark; }
body { width: 35em; margin: 0 auto; font-family: Tahoma, Verdana, Arial, sans-serif; }
</style>
</head>
<body>
<h1>Welcome to nginx!</h1>
<p>The web server is installed and running.</p>
</body>
</html>
"""

_ERROR_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Error</title></head><body><h1>An error occurred.</h1></body></html>\n"
)

_ENTRYPOINT = """#!/bin/sh
set -e
for script in $(find /docker-entrypoint.d/ -name '*.sh' -type f 2>/dev/null | sort); do
  if [ -x "$script" ]; then "$script"; fi
done
exec "$@"
"""

_TYPES = {
    "text/html": "html htm shtml",
    "text/css": "css",
    "text/plain": "txt",
    "text/xml": "xml",
    "application/javascript": "js mjs",
    "application/json": "json",
    "application/pdf": "pdf",
    "application/wasm": "wasm",
    "image/gif": "gif",
    "image/jpeg": "jpeg jpg",
    "image/png": "png",
    "image/svg+xml": "svg svgz",
    "image/webp": "webp",
    "image/x-icon": "ico",
    "font/woff2": "woff2",
}


def _recipe(root: Path) -> Sequence[Part]:
    number = debian.free_id(101)
    debian.system(root, {"nginx": (number, number, "/nonexistent", "/bin/false")}, {"nginx": number})
    parts = debian.usr(root, writable=True, packages=("nginx-light", "curl"))
    files.write(root, "etc/nginx/nginx.conf", _MAIN)
    files.write(root, "etc/nginx/conf.d/default.conf", _SITE)
    types = "".join(f"    {kind}  {endings};\n" for kind, endings in _TYPES.items())
    files.write(root, "etc/nginx/mime.types", f"types {{\n{types}}}\n")
    layer = root.parent / "usr"
    files.write(layer, "share/nginx/html/index.html", _PAGE)
    files.write(layer, "share/nginx/html/50x.html", _ERROR_PAGE)
    files.write(root, "docker-entrypoint.sh", _ENTRYPOINT, 0o755)
    (root / "docker-entrypoint.d").mkdir(exist_ok=True)
    (root / "var/cache/nginx").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/nginx").mkdir(parents=True, exist_ok=True)
    (root / "var/log/nginx").mkdir(parents=True, exist_ok=True)
    (root / "var/log/nginx/access.log").symlink_to("/dev/stdout")
    (root / "var/log/nginx/error.log").symlink_to("/dev/stderr")
    return parts


IMAGE = Image(
    repositories=docker_hub("library/nginx", "docker.io/nginxinc/nginx", "registry.k8s.io/nginx"),
    about="nginx on Debian",
    config=ImageConfig(
        entrypoint=("/docker-entrypoint.sh",),
        cmd=("nginx", "-g", "daemon off;"),
        env=(("PATH", files.PATH),),
        stop_signal="SIGQUIT",
    ),
    recipe=_recipe,
    made_from=(debian.STATUS, "/etc/apt/sources.list.d", "/etc/ssl/certs/ca-certificates.crt"),
)
