"""What usually keeps a hospital's service from starting, looked at one by one; every look says what to do."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509

from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.policy.private_file import read_file
from fedvlm_secure.policy.roster import load_roster
from fedvlm_secure.policy.schema import Policy
from node.hospital import load_data
from node.keystore import open_keystore

Verdict = Literal["ok", "warning", "wrong"]

FEW_DAYS = 30
LITTLE_DISK_BYTES = 2 << 30
_CONNECT_S = 5.0
_RENEW = "ask the coordinator to admit this node again"


@dataclass(frozen=True)
class Finding:
    """One look: what, how it is, in words, and what to do (empty where nothing is)."""

    name: str
    verdict: Verdict
    text: str
    hint: str = ""


def examine(policy: Policy | None, config: NodeConfig, now: datetime) -> tuple[Finding, ...]:
    """All looks, none of which changes or sends anything but one TCP connection to the aggregator's port.

    Args:
        policy: to look at base and data with; None leaves those two out.
        config: this hospital's node.yaml.
        now: the wall clock, with a time zone.
    """
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("certificate", lambda: _certificate(config, now)),
        ("roster", lambda: _roster(config)),
        ("disk", lambda: _disk(config)),
        ("aggregator", lambda: _port(config)),
    ]
    if policy is not None:
        looks += [("base", lambda: _base(policy, config)), ("data", lambda: _data(policy, config))]
    return tuple(_look(name, look) for name, look in looks)


def _look(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except FedvlmError as error:
        return Finding(name, "wrong", f"{error.cause} [{error.code}]", error.hint)


def _certificate(config: NodeConfig, now: datetime) -> Finding:
    raw = read_file(open_keystore(config.state).certificate_path, missing_hint="run `fedvlm-node install`")
    certificate = x509.load_pem_x509_certificate(raw)
    if now < certificate.not_valid_before_utc:
        text = f"valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; this clock says {now:%Y-%m-%d %H:%M}"
        return Finding("certificate", "wrong", text, "set this machine's clock")
    days = (certificate.not_valid_after_utc - now).days
    if days < 0:
        return Finding("certificate", "wrong", f"expired {-days} days ago", _RENEW)
    verdict: Verdict = "warning" if days < FEW_DAYS else "ok"
    hint = _RENEW if verdict == "warning" else ""
    return Finding("certificate", verdict, f"{days} days left; the clock fits it", hint)


def _roster(config: NodeConfig) -> Finding:
    roster = load_roster(config.roster_path)
    roster.member(open_keystore(config.state).node)
    return Finding("roster", "ok", f"{len(roster.members)} hospitals, fingerprint {roster.fingerprint}")


def _disk(config: NodeConfig) -> Finding:
    free = shutil.disk_usage(config.state).free
    little = free < LITTLE_DISK_BYTES
    hint = "make room: journal and uploads are written before anything is sent" if little else ""
    return Finding("disk", "warning" if little else "ok", f"{free / (1 << 30):.1f} GiB free at {config.state}", hint)


def _port(config: NodeConfig) -> Finding:
    host, _, port = config.aggregator.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            return Finding("aggregator", "ok", f"{config.aggregator} takes connections")
    except OSError as error:
        cause = error.strerror or "no answer"
        hint = "ask whether the aggregator runs, and whether the firewall lets this port out"
        return Finding("aggregator", "wrong", f"{config.aggregator}: {cause}", hint)


def _base(policy: Policy, config: NodeConfig) -> Finding:
    from fedvlm_secure.vlm.base import fingerprint, shipped_base

    base = policy.model.base
    found = fingerprint(config.base if config.base is not None else shipped_base(str(base.name)))
    if found != base.sha256:
        text = f"this copy is {found[:16]}..., the policy asks for {base.sha256[:16]}..."
        return Finding("base", "wrong", text, "get the base model that the consortium agreed on")
    return Finding("base", "ok", f"fingerprint {found[:16]}... as the policy asks")


def _data(policy: Policy, config: NodeConfig) -> Finding:
    data = load_data(policy, config)
    patients = len({row.patient for row in data.rows})
    return Finding("data", "ok", f"{len(data.rows)} rows of {patients} patients can be read")
