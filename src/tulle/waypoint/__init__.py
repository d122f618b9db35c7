"""The waypoint proxy: an Envoy that decides L7 policy in front of Services, and the agent that keeps it configured.

The agent makes the waypoint's key and has it signed, takes listeners, routes, clusters and endpoints from istiod over delta ADS, and
passes both on to Envoy over a unix socket. It never sees a user's byte and decides nothing: what is enforced was decided by istiod and
is carried out by Envoy. When istiod is away the last configuration stays in force.

Reading order: `settings` (the environment), `relay` (istiod's configuration, passed on), `readiness`, `agent` (the whole), `__main__`.
"""
