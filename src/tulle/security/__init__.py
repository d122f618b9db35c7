"""Istio's security semantics as a pure library.

This package exists so that every part of the mesh asks one place what a policy means. It reads no file, opens no socket and
knows no clock: objects go in, decisions and configuration come out. Read it in this order: ``identity`` and ``mesh`` (who is
who, and the settings), ``model`` (the policy objects), ``parse`` (from manifests), ``terms`` (one uniform view of a rule),
``match`` and ``paths`` (how one value matches), ``admission`` (what is refused at the door), ``peer_authentication``,
``reduction`` and ``ztunnel`` (what layer 4 can enforce), ``attachment`` and ``policies`` (which policy applies where),
``envoy_rbac`` (what a waypoint enforces), ``decision`` (one request, explained) and ``status`` (what users are told).
"""
