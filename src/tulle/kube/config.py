"""Where the API server is and who we are to it: kubeconfig files and the service account of a pod.

Everything that changes who the caller is and that this package cannot honour (exec plugins, impersonation) is
refused with the field's name: going on without it would act as somebody else.
"""

import base64
import binascii
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_MAX_AGE = 30.0


class ConfigError(Exception):
    """A kubeconfig or in-cluster environment that cannot be used; the text names file and field."""


class TokenFile:
    """A bearer token in a file that the kubelet rotates: read again when 30 s old, or on demand after a 401."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._value = ""
        self._read_at = float("-inf")

    def value(self, *, fresh: bool = False) -> str:
        """The token. Raises ConfigError when the file cannot be read and no earlier value is known."""
        if fresh or time.monotonic() - self._read_at > _TOKEN_MAX_AGE:
            try:
                self._value = self._path.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                if not self._value:
                    raise ConfigError(f"token file {self._path}: {error}") from error
            self._read_at = time.monotonic()
        return self._value


@dataclass(frozen=True)
class Connection:
    """Everything needed to reach one API server as one identity. ``server`` has no trailing slash."""

    server: str
    tls: ssl.SSLContext | None = None
    tls_server_name: str | None = None
    token: TokenFile | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    proxy: str | None = None
    namespace: str = "default"


def in_cluster(env: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT_DIR) -> Connection:
    """The connection of a pod's service account. Raises ConfigError outside a pod."""
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("not in a cluster: KUBERNETES_SERVICE_HOST is not set; give a kubeconfig instead")
    if not (directory / "token").exists():
        raise ConfigError(f"no service account token at {directory}/token: is automountServiceAccountToken off?")
    return Connection(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        tls=_trust((directory / "ca.crt").read_text(encoding="ascii")),
        token=TokenFile(directory / "token"),
        namespace=_own_namespace(directory),
    )


def from_kubeconfig(path: str, context: str | None = None) -> Connection:
    """The connection of ``context`` (default: current-context) of a kubeconfig file, or of a $KUBECONFIG list.

    Of several files the first that has an entry wins, as in kubectl. Raises ConfigError.
    """
    found = _files(path)
    chosen = _chosen(found, context)
    if not chosen:
        raise ConfigError(f"kubeconfig {path}: no current-context; name a context")
    _, ctx = _entry(found, "contexts", "context", chosen)
    cluster_file, cluster = _entry(found, "clusters", "cluster", str(ctx.get("cluster", "")))
    user_file, user = _entry(found, "users", "user", str(ctx["user"])) if ctx.get("user") else (cluster_file, {})
    return _connect(cluster_file, cluster, user_file, user, _namespace(ctx))


def load(kubeconfig: str | None = None, context: str | None = None) -> Connection:
    """The named kubeconfig; else the pod's service account; else $KUBECONFIG; else ~/.kube/config."""
    if not kubeconfig and _is_in_cluster():
        return in_cluster()
    return from_kubeconfig(kubeconfig or _default_files(), context)


def namespace_of(kubeconfig: str | None = None, context: str | None = None) -> str:
    """The namespace that ``load`` would name, without a look at servers and credentials; ``default`` where no kubeconfig is and none
    is named, or no context is chosen. Raises ConfigError."""
    if not kubeconfig and _is_in_cluster():
        return _own_namespace(SERVICE_ACCOUNT_DIR)
    path = kubeconfig or _default_files()
    if not kubeconfig and not any(Path(part).expanduser().exists() for part in path.split(os.pathsep) if part):
        return "default"
    found = _files(path)
    chosen = _chosen(found, context)
    return _namespace(_entry(found, "contexts", "context", chosen)[1]) if chosen else "default"


def _is_in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT_DIR / "token").exists()


def _default_files() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


def _own_namespace(directory: Path) -> str:
    file = directory / "namespace"
    return file.read_text(encoding="ascii").strip() if file.exists() else "default"


class _Kubeconfig:
    def __init__(self, path: Path) -> None:
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            document = {} if document is None else document
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"kubeconfig {path}: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(f"kubeconfig {path}: found {type(document).__name__}, expected a mapping of kind Config")
        self.path = path
        self.document: dict[str, Any] = document
        self.current_context = str(document.get("current-context") or "")

    def section(self, name: str) -> list[dict[str, Any]]:
        """The entries of a section. Raises ConfigError if it is no list of mappings."""
        entries = self.document.get(name) or []
        if not isinstance(entries, list):
            raise ConfigError(f"kubeconfig {self.path}: {name}: found {type(entries).__name__}, expected a list")
        return [self.mapping(entry, f"{name}[{index}]") for index, entry in enumerate(entries)]

    def mapping(self, value: object, where: str) -> dict[str, Any]:
        """A value that is a mapping, or absent. Raises ConfigError for any other."""
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"kubeconfig {self.path}: {where}: found {type(value).__name__}, expected a mapping")
        return value or {}


def _files(path: str) -> list[_Kubeconfig]:
    files = [Path(part).expanduser() for part in path.split(os.pathsep) if part]
    found = [_Kubeconfig(file) for file in files if len(files) == 1 or file.exists()]
    if not found:
        raise ConfigError(f"kubeconfig {path}: no such file")
    return found


def _chosen(files: list[_Kubeconfig], context: str | None) -> str:
    return context or next((file.current_context for file in files if file.current_context), "")


def _namespace(context: dict[str, Any]) -> str:
    return str(context.get("namespace") or "default")


def _entry(files: list[_Kubeconfig], section: str, key: str, name: str) -> tuple[Path, dict[str, Any]]:
    names = []
    for file in files:
        for item in file.section(section):
            if item.get("name") == name:
                return file.path, file.mapping(item.get(key), f"{section}[{name}].{key}")
            names.append(str(item.get("name")))
    where = ", ".join(str(f.path) for f in files)
    raise ConfigError(f"kubeconfig {where}: {section} has no {name!r}; found: {', '.join(names) or 'none'}")


def _connect(
    cluster_file: Path, cluster: dict[str, Any], user_file: Path, user: dict[str, Any], namespace: str
) -> Connection:
    for name in ("exec", "auth-provider", "as", "as-groups", "as-uid", "as-user-extra"):
        if user.get(name):
            raise ConfigError(
                f"kubeconfig {user_file}: user field {name!r} is not supported; "
                "accepted: client-certificate(-data) with client-key(-data), token, tokenFile, username with password"
            )
    server = str(cluster.get("server") or "").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise ConfigError(f"kubeconfig {cluster_file}: cluster server {server!r} is not an http(s) URL")
    return Connection(
        server=server,
        tls=_tls(cluster_file, cluster, user_file, user) if server.startswith("https://") else None,
        tls_server_name=cluster.get("tls-server-name"),
        token=TokenFile(user_file.parent / user["tokenFile"]) if user.get("tokenFile") else None,
        headers=_static_headers(user),
        proxy=cluster.get("proxy-url"),
        namespace=namespace,
    )


def _static_headers(user: dict[str, Any]) -> dict[str, str]:
    if user.get("tokenFile"):
        return {}
    if user.get("token"):
        return {"Authorization": f"Bearer {user['token']}"}
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
    return {}


def _tls(cluster_file: Path, cluster: dict[str, Any], user_file: Path, user: dict[str, Any]) -> ssl.SSLContext:
    ca = _pem(cluster_file, cluster, "certificate-authority")
    context = _trust(ca.decode("ascii", "replace") if ca else None, where=str(cluster_file))
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    cert, key = _pem(user_file, user, "client-certificate"), _pem(user_file, user, "client-key")
    if bool(cert) != bool(key):
        missing = "client-key" if cert else "client-certificate"
        raise ConfigError(f"kubeconfig {user_file}: user has no {missing}, which its counterpart needs")
    if cert and key:
        _load_pair(context, cert, key, user_file)
    return context


def _trust(ca_pem: str | None, where: str = "in-cluster ca.crt") -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca_pem)
    except ssl.SSLError as error:
        raise ConfigError(f"{where}: the certificate authority is not a PEM certificate: {error}") from error


def _pem(file: Path, section: dict[str, Any], name: str) -> bytes:
    if section.get(f"{name}-data"):
        try:
            return base64.b64decode(section[f"{name}-data"], validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise ConfigError(f"kubeconfig {file}: {name}-data is not base64: {error}") from error
    if section.get(name):
        path = file.parent / Path(section[name]).expanduser()
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"kubeconfig {file}: {name}: {error}") from error
    return b""


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes, file: Path) -> None:
    """OpenSSL takes a client key by file name only; an anonymous memory file keeps it off the disk."""
    descriptor = os.memfd_create("client-identity", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as memory:
            memory.write(cert + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise ConfigError(f"kubeconfig {file}: client certificate and key do not load: {error}") from error
    finally:
        os.close(descriptor)
