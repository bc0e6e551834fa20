"""What usually keeps a hospital's service from starting, looked at one by one; every look says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import datetime

from cryptography import x509

from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.he.cipher import require_library
from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.policy.privacy import PatientPrivacy
from fedvlm_secure.policy.private_file import read_file
from fedvlm_secure.policy.projection import project
from fedvlm_secure.policy.roster import load_roster
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import Entropy
from node.doctor_machine import look_at_clock, look_at_device, look_at_step
from node.doctor_network import look_at_port, look_at_proxy, look_at_tls
from node.finding import FEW_DAYS, Finding, Verdict
from node.hospital import load_data
from node.keystore import open_keystore
from node.ledger import Ledger
from node.ledger_chain import ledger_paths

LITTLE_DISK_BYTES = 2 << 30
_RENEW = "ask the coordinator to admit this node again"


def examine(
    policy: Policy | None, config: NodeConfig, now: datetime, *, environment: Mapping[str, str], entropy: Entropy
) -> tuple[Finding, ...]:
    """All looks. None changes anything here; what is sent is two connections to the aggregator's port, with nothing in.

    Args:
        policy: to look at base, data, budget and a step with; None leaves those out.
        config: this hospital's node.yaml.
        now: the wall clock, with a time zone.
        environment: the variables that the service would see.
        entropy: of the step's sampling and noise.
    """
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("certificate", lambda: _certificate(config, now)),
        ("clock", lambda: look_at_clock(config.state, now)),
        ("roster", lambda: _roster(config)),
        ("disk", lambda: _disk(config)),
        ("device", lambda: look_at_device(config.device)),
        ("proxy", lambda: look_at_proxy(config.aggregator, environment)),
        ("aggregator", lambda: look_at_port(config.aggregator)),
        ("tls", lambda: look_at_tls(config.aggregator, load_roster(config.roster_path), now)),
    ]
    if policy is not None:
        looks += [
            ("base", lambda: _base(policy, config)),
            ("data", lambda: _data(policy, config)),
            ("budget", lambda: _budget(policy, config, now)),
            ("step", lambda: look_at_step(policy, config, entropy)),
        ]
        if policy.protection.is_encrypted:
            looks.append(("library", lambda: _library(policy)))
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


def _library(policy: Policy) -> Finding:
    require_library()
    return Finding("library", "ok", f"protection {policy.protection.method}: the homomorphic library is installed")


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


def _budget(policy: Policy, config: NodeConfig, now: datetime) -> Finding:
    projection = project(policy)
    if projection is None or not isinstance(policy.privacy, PatientPrivacy):
        return Finding("budget", "ok", "the policy has no mechanism: the run will be marked, not charged")
    ledger = Ledger(ledger_paths(config.state, config.ledger_anchor), lambda: int(now.timestamp()))
    purse = ledger.balance(config.population)
    whole = projection.trajectory[-1][1]
    text = (
        f"this run costs epsilon {whole:.2f}; {purse.remaining:.2f} of {purse.limit:g} are left to {config.population}"
    )
    if whole > purse.remaining:
        return Finding("budget", "warning", text, "the run may be refused: see `fedvlm-node ledger`")
    return Finding("budget", "ok", text)
