"""The mesh's certificate authority: who may have which identity, and the certificates that prove it.

A certificate is the whole security of a workload, so what is signed is never what a request asks for but what was
proved about its sender: the key comes from the request, everything else from here.

Reading order: ``x509`` (the few certificate shapes in use), ``authority`` (signing), ``store`` (where the authority's
own key lives), ``plugged`` (another one under a running mesh), ``callers`` (who is asking), ``impersonation`` (when a
node may ask for a workload), ``service`` (the gRPC service),
``config_map_publisher`` (how proxies learn the root), ``revocations`` (and whom not to believe).
"""
