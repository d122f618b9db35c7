"""What every namespace has from the start: ServiceAccount `default`, and the cluster's root certificate in a ConfigMap.

Pods need both to talk to the API, so both come back when somebody removes or alters them.
"""

from tulle.cluster.controllers.caches import ROOT_CA_NAME, Context, Subscriptions
from tulle.kube import AlreadyExists, WorkQueue
from tulle.kube.objects import Namespace
from tulle.kube.resources import CONFIG_MAPS, SERVICE_ACCOUNTS

_DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of "
    "Kubernetes clusters."
)


class ServiceAccountController:
    """Keeps ServiceAccount `default` in every active namespace."""

    name = "serviceaccount-controller"

    def __init__(self, context: Context) -> None:
        self._client = context.client
        self._caches = context.caches
        self._queue: WorkQueue[str] = WorkQueue("ServiceAccount default of Namespace")

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.namespaces, self._caches.service_accounts)
            handlers.on(self._caches.namespaces, lambda change: self._queue.add(change.key[1]))
            handlers.on(self._caches.service_accounts, lambda change: self._queue.add(change.key[0]))
            await self._queue.work(self.reconcile, workers=2)
        finally:
            handlers.close()

    async def reconcile(self, namespace: str) -> None:
        """Makes the account if it is missing."""
        if not is_live(self._caches.namespaces.store.get(("", namespace))):
            return
        if (namespace, "default") not in self._caches.service_accounts.store:
            body = {"metadata": {"name": "default", "namespace": namespace}}
            try:
                await self._client.create(SERVICE_ACCOUNTS, body, namespace)
            except AlreadyExists:
                return


class RootCaPublisher:
    """Keeps ConfigMap `kube-root-ca.crt` in every active namespace."""

    name = "root-ca-certificate-publisher-controller"

    def __init__(self, context: Context, root_ca: str) -> None:
        self._client = context.client
        self._caches = context.caches
        self._root_ca = root_ca
        self._queue: WorkQueue[str] = WorkQueue("ConfigMap kube-root-ca.crt of Namespace")

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.namespaces, self._caches.root_ca)
            handlers.on(self._caches.namespaces, lambda change: self._queue.add(change.key[1]))
            handlers.on(self._caches.root_ca, lambda change: self._queue.add(change.key[0]))
            await self._queue.work(self.reconcile, workers=2)
        finally:
            handlers.close()

    async def reconcile(self, namespace: str) -> None:
        """Makes the ConfigMap, or puts its data back."""
        if not is_live(self._caches.namespaces.store.get(("", namespace))):
            return
        data = {"ca.crt": self._root_ca}
        found = self._caches.root_ca.store.get((namespace, ROOT_CA_NAME))
        if found is None:
            metadata = {"name": ROOT_CA_NAME, "annotations": {"kubernetes.io/description": _DESCRIPTION}}
            try:
                await self._client.create(CONFIG_MAPS, {"metadata": metadata, "data": data}, namespace)
            except AlreadyExists:
                return
        elif found.data != data:
            wanted = {**dict.fromkeys(found.data), **data}
            await self._client.patch(CONFIG_MAPS, ROOT_CA_NAME, {"data": wanted}, namespace)


def is_live(namespace: Namespace | None) -> bool:
    """Whether objects may be made in the namespace."""
    return namespace is not None and not namespace.metadata.deletion_timestamp
