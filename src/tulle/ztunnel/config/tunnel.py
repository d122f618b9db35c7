"""Apps that take every tunnel to their pod on one port, such as a waypoint that is no part of the mesh (spec D10).

Such an app is told to whom a connection was going, and from whom it comes, by a PROXY header.  It listens on the pod's
loopback.
"""

from __future__ import annotations

from typing import Final

from tulle.envoy import filter_state, matching, original_source, routes
from tulle.envoy.matching import Choice
from tulle.ztunnel.config import names
from tulle.ztunnel.state.model import AppTunnel

#: One address and one port, each in a spelling that an app can be told of.
ANY_AUTHORITY: Final = r"(?:[0-9.]{7,15}|\[[0-9a-f:.]{2,45}\]):[1-9][0-9]{0,4}"
_PORT_ASKED_FOR: Final = r"%CEL(re.extract(request.host, '.*:([0-9]+)', '\\1'))%"


def way_in(tunnel: AppTunnel | None, where: str = "", unlike: str | None = None) -> Choice:
    """What becomes of a tunnel that policies allow; `where`: it leads there instead of to its authority.

    The app sees the client's address unless it is `unlike` (an expression; None: whatever it is) what the app can answer to.
    """
    if tunnel is None:
        route = routes.terminate_connect("", names.APP_BY_AUTHORITY)
        if where:
            route = routes.with_filter_state(route, filter_state.target(where))
        plain = matching.use_route(route)
        if unlike is None:
            return plain
        kept = matching.use_route(original_source.keep_source(route))
        cases = [(matching.matches(matching.request_header(names.SOURCE_HEADER), unlike), plain)] if unlike else []
        return matching.use_matcher(matching.first_match(cases, kept)) if cases else kept
    app = filter_state.target(f"127.0.0.1:{tunnel.port or _PORT_ASKED_FOR}")
    if not tunnel.proxy:
        return matching.use_route(
            routes.with_filter_state(routes.terminate_connect("", names.ORIGINAL_DESTINATION), app)
        )
    peer, source = "%DOWNSTREAM_PEER_URI_SAN%", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"
    told = (
        filter_state.Value(names.TUNNEL_PEER, peer, upstream="ONCE"),
        filter_state.Value(names.TUNNEL_KEY, f"{peer} {source} %REQ(:AUTHORITY)%", upstream="ONCE"),
        *filter_state.ends("%REQ(:AUTHORITY)%", source),
    )
    return matching.use_route(routes.with_filter_state(routes.terminate_connect("", names.APP_TUNNEL), app, *told))
