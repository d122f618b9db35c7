"""Short builders of the API objects in the tests, each with a fresh resource version."""

import itertools

from tulle.kube.objects import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    Namespace,
    ObjectMeta,
    Service,
    ServicePort,
    ServiceSpec,
)

_versions = itertools.count(1)


def meta(namespace: str, name: str, **labels: str) -> ObjectMeta:
    return ObjectMeta(
        namespace=namespace,
        name=name,
        uid=f"u-{namespace}-{name}",
        resource_version=str(next(_versions)),
        labels=labels,
    )


def namespace(name: str) -> Namespace:
    return Namespace(metadata=meta("", name))


def service(key: str, ip: str, *ports: ServicePort, **spec: object) -> Service:
    ns, name = key.split("/")
    body = ServiceSpec(cluster_ip=ip, cluster_ips=(ip,) if ip else (), ports=ports, **spec)
    return Service(metadata=meta(ns, name), spec=body)


def port(number: int, name: str = "http", protocol: str = "TCP", node_port: int = 0) -> ServicePort:
    return ServicePort(port=number, name=name, protocol=protocol, node_port=node_port)


def slice_of(
    key: str,
    addresses: list[str],
    number: int,
    name: str = "http",
    protocol: str = "TCP",
    *,
    ready: bool = True,
    hostname: str = "",
) -> EndpointSlice:
    ns, service_name = key.split("/")
    metadata = ObjectMeta(
        namespace=ns,
        name=f"{service_name}-1",
        uid=f"s-{key}",
        resource_version=str(next(_versions)),
        labels={"kubernetes.io/service-name": service_name},
    )
    endpoints = tuple(
        Endpoint(addresses=(a,), hostname=hostname, conditions=EndpointConditions(ready=ready, serving=ready))
        for a in addresses
    )
    return EndpointSlice(
        metadata=metadata,
        address_type="IPv4",
        endpoints=endpoints,
        ports=(EndpointPort(name=name, port=number, protocol=protocol),),
    )
