"""Clusters of endpoints that are known by host name: Envoy looks the names up itself, for as long as the cluster exists.

What stands behind such a name is outside the mesh: it is dialled in plaintext. The endpoints are part of the cluster, since Envoy
looks nothing up that comes by EDS, so that a changed list of endpoints is a changed cluster. A cluster serves from the start, without
endpoints until its names have been looked up: Envoy takes nothing new, policies neither, while it waits for a cluster to be ready, and
somebody else's name server must not hold those up.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.clusters.common.dns.v3 import dns_pb2 as dns_common_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2

from tulle.envoy.clusters import Endpoint, static_cluster
from tulle.envoy.sockets import tcp_address
from tulle.envoy.tls import plaintext
from tulle.envoy.wire import extension, pack, seconds
from tulle.istiod.waypoint_config.view import EndpointView

KIND = "envoy.cluster.dns"
"""The extension that makes such clusters: what Envoy once called STRICT_DNS and LOGICAL_DNS."""
ENDPOINTS = "endpoints"
"""Key in a cluster's metadata: what it was to look up, for logs. A request that finds no address has no endpoint to tell of."""
_REFRESH, _RETRY, _RETRY_AT_MOST = 60.0, 1.0, 10.0
"""Seconds until a name is looked up again: at most (its time to live counts where that is shorter), and after a failure."""


def cluster(name: str, endpoints: Sequence[EndpointView], *, one_address: bool = False) -> cluster_pb2.Cluster:
    """All addresses of all names are endpoints; with `one_address` each new connection goes to the first that its name has then."""
    made = static_cluster(
        name,
        [[Endpoint(tcp_address(one.address, one.port)) for one in endpoints]],
        transports=[("plaintext", plaintext())],
        metadata=((ENDPOINTS, ", ".join(f"{one.address}:{one.port}" for one in endpoints)),),
    )
    made.ClearField("type")
    # Envoy uses one address at a time of one name only.
    logical = one_address and len(endpoints) == 1
    made.cluster_type.CopyFrom(cluster_pb2.Cluster.CustomClusterType(name=KIND, typed_config=pack(_lookups(logical))))
    made.wait_for_warm_on_init.value = False
    made.lb_policy = cluster_pb2.Cluster.LEAST_REQUEST
    return made


def _lookups(logical: bool) -> dns_cluster_pb2.DnsCluster:
    lookups = dns_cluster_pb2.DnsCluster(
        dns_refresh_rate=seconds(_REFRESH),
        dns_failure_refresh_rate={"base_interval": seconds(_RETRY), "max_interval": seconds(_RETRY_AT_MOST)},
        respect_dns_ttl=True,
        dns_lookup_family=dns_common_pb2.V4_PREFERRED,
        all_addresses_in_single_endpoint=logical,
    )
    lookups.typed_dns_resolver_config.CopyFrom(extension("envoy.network.dns_resolver.cares", _resolver()))
    return lookups


def _resolver() -> cares_dns_resolver_pb2.CaresDnsResolverConfig:
    """Names are complete (Istio's API says so): no search domain may turn one into the name of something in the cluster."""
    config = cares_dns_resolver_pb2.CaresDnsResolverConfig()
    config.dns_resolver_options.no_default_search_domain = True
    return config
