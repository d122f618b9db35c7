"""The type URLs in use, and what the protocol says differs between them.

Three things depend on the type alone: whether an empty first subscription means "everything", whether a name that does
not exist is answered at once or waited for, and in which order types go out when several change together. They are
tables here so that the state machines need no case for any type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PREFIX: Final = "type.googleapis.com/"

CLUSTER: Final = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = PREFIX + "envoy.config.listener.v3.Listener"
ROUTES: Final = PREFIX + "envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTES: Final = PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
VIRTUAL_HOST: Final = PREFIX + "envoy.config.route.v3.VirtualHost"
SECRET: Final = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION: Final = PREFIX + "envoy.config.core.v3.TypedExtensionConfig"

ADDRESS: Final = PREFIX + "istio.workload.Address"
WORKLOAD: Final = PREFIX + "istio.workload.Workload"
AUTHORIZATION: Final = PREFIX + "istio.security.Authorization"

#: Types for which an empty first subscription means nothing rather than everything (the xDS protocol, "wildcard").
NEVER_IMPLICIT_WILDCARD: Final = frozenset({ENDPOINTS, ROUTES, VIRTUAL_HOST, SECRET, EXTENSION})

#: Types whose resources are made because somebody asks (a certificate is signed on demand): a name that does not exist
#: yet is left unanswered until it does or is given up. For every other type the client is told at once that there is none.
ANSWERED_WHEN_MADE: Final = frozenset({SECRET})

#: A type's additions wait while these have additions to send: what is referred to arrives before what refers to it.
ADD_AFTER: Final[Mapping[str, tuple[str, ...]]] = {
    ENDPOINTS: (CLUSTER,),
    EXTENSION: (CLUSTER, ENDPOINTS),
    LISTENER: (SECRET, CLUSTER, ENDPOINTS, EXTENSION),
    SCOPED_ROUTES: (CLUSTER, ENDPOINTS, LISTENER),
    ROUTES: (CLUSTER, ENDPOINTS, LISTENER),
    VIRTUAL_HOST: (CLUSTER, ENDPOINTS, LISTENER, ROUTES),
    ADDRESS: (AUTHORIZATION,),
    WORKLOAD: (AUTHORIZATION,),
}

#: A type's removals wait until these have nothing to send and nothing unacknowledged: nothing that is still referred
#: to is taken away.
REMOVE_AFTER: Final[Mapping[str, tuple[str, ...]]] = {
    SECRET: (CLUSTER, LISTENER),
    EXTENSION: (LISTENER,),
    CLUSTER: (LISTENER, SCOPED_ROUTES, ROUTES, VIRTUAL_HOST, EXTENSION),
    ENDPOINTS: (LISTENER, SCOPED_ROUTES, ROUTES, VIRTUAL_HOST, EXTENSION),
    AUTHORIZATION: (ADDRESS, WORKLOAD),
}

#: The order in which one pass over a stream's types considers them; types not named here come last.
PASS_ORDER: Final[Mapping[str, int]] = {
    url: place
    for place, url in enumerate(
        (
            SECRET,
            CLUSTER,
            ENDPOINTS,
            EXTENSION,
            LISTENER,
            SCOPED_ROUTES,
            ROUTES,
            VIRTUAL_HOST,
            AUTHORIZATION,
            WORKLOAD,
            ADDRESS,
        )
    )
}
