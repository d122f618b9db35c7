"""The kubelet's HTTPS server: what the API server passes on from `kubectl logs`, `exec`, `attach`, `cp` and
`port-forward`.

Only a client certificate of the cluster's CA gets in. Reading order: `app` (routes), `logs`, `channels` (the
remote-command protocol), `streams` (exec and attach), `spdy` and `tunnel` (port-forward), `stats`.
"""
