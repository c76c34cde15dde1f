"""Addresses that servers listen at."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Nobody but this machine can connect to it. Of a name other than ``localhost`` nobody knows."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
