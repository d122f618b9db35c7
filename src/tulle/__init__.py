"""Tulle: an ambient service mesh in Python."""

__version__ = "0.1.0"
