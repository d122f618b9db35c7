"""The same private machine as the node network's tests have."""

from network.conftest import machine

__all__ = ["machine"]
