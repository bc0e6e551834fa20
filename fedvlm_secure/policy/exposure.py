"""Updates in clear stay on one machine: an unprotected policy is served on loopback only."""

from __future__ import annotations

import ipaddress

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.schema import Policy


def check_exposure(policy: Policy, address: str) -> None:
    """Refuse to send updates in clear over a network.

    Args:
        policy: a loaded policy.
        address: `host:port`, where the aggregator listens or a node dials.

    Raises:
        PolicyError: UNPROTECTED_NETWORK.
    """
    if policy.protection.method == "none" and not _is_loopback(address.rpartition(":")[0]):
        raise PolicyError(
            "UNPROTECTED_NETWORK",
            f"policy {policy.name} sends updates in clear, and {address[:80]} is not loopback",
            "use protection.method: masking, or 127.0.0.1 to try things out",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
