"""The image catalogue: every image name that a pod can use without a registry, and how its root directory is made on
this machine.

A root is made from what the machine already has (its Debian packages, this Python, this package's own servers), once,
and cached in the state directory; a container sees it below its own writable layer. An image of a registry is had by
putting its archive (`docker save`, or an OCI layout in a tar file) into `<state>/images/import/`.

Reading order: `names` (references), `model` (an image and its recipe), `debian`, `python`, `files` (ingredients of
roots), then one module per image (`curl`, `nginx`, ...), `catalogue` (all of them), `archive` (imported images),
`store` (the cache on disk).
"""
