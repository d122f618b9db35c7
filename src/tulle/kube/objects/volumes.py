"""The volumes of a pod: what a node mounts, and where the values come from."""

import msgspec

from tulle.kube.objects.meta import Part


class FieldRef(Part, frozen=True, kw_only=True):
    field_path: str = ""
    api_version: str = ""


class ResourceFieldRef(Part, frozen=True, kw_only=True):
    resource: str = ""
    container_name: str = ""
    divisor: int | float | str = ""


class KeyToPath(Part, frozen=True, kw_only=True):
    key: str = ""
    path: str = ""
    mode: int | None = None


class DownwardItem(Part, frozen=True, kw_only=True):
    path: str = ""
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class ConfigMapSource(Part, frozen=True, kw_only=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool = False


class SecretVolumeSource(Part, frozen=True, kw_only=True):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool = False


class SecretProjection(Part, frozen=True, kw_only=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool = False


class DownwardSource(Part, frozen=True, kw_only=True):
    items: tuple[DownwardItem, ...] = ()
    default_mode: int | None = None


class EmptyDir(Part, frozen=True, kw_only=True):
    medium: str = ""
    size_limit: int | float | str = ""


class HostPath(Part, frozen=True, kw_only=True):
    path: str = ""
    type: str = ""


class ServiceAccountTokenProjection(Part, frozen=True, kw_only=True):
    path: str = ""
    audience: str = ""
    expiration_seconds: int = 3600


class ProjectedItem(Part, frozen=True, kw_only=True):
    """One source of a projected volume; exactly one field is set."""

    config_map: ConfigMapSource | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardSource | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None


class Projected(Part, frozen=True, kw_only=True):
    sources: tuple[ProjectedItem, ...] = ()
    default_mode: int | None = None


class Volume(Part, frozen=True, kw_only=True):
    """A volume of a kind that a node of the embedded cluster can mount; other kinds decode with every source absent."""

    name: str = ""
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretVolumeSource | None = None
    downward_api: DownwardSource | None = msgspec.field(default=None, name="downwardAPI")
    projected: Projected | None = None
