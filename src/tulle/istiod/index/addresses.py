"""Addresses as users write them, in their usual form.

They end in messages and in Envoy's configuration, which take no other form: what is none must go no further than here, since one
object of one user would keep everybody's configuration from being made.
"""

from __future__ import annotations

import ipaddress


def address_of(text: str) -> str:
    """A single address; "" for anything else. A zone (`%eth0`) means something on one machine only."""
    try:
        return "" if "%" in text else str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def address_or_block_of(text: str) -> str:
    """A single address or a block of several (`10.0.0.0/8`); "" for anything else."""
    if "/" not in text:
        return address_of(text)
    try:
        block = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ""
    if "%" in text:
        return ""
    return str(block.network_address) if block.num_addresses == 1 else str(block)
