"""Random policies and requests, decided by the engine and by the real data plane.

`drawing` makes the cases, `wire` the raw clients, `node` a real node proxy with pods, `proxy` a real waypoint; `l4` and `l7` put
many policy sets at once into one of them and ask each request on live sockets. The tests use them for some hundred
cases, `bench/security_soak.py` for many thousand.
"""
