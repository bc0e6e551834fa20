"""Targets for what stands in files and records: sound values damaged in their structure, written and read again."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fedvlm_secure import canonical
from fedvlm_secure.dp.events import flatten, from_record
from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.types import Digest, Secret
from node.approvals import approvals, approve
from node.keystore import create_keystore, open_keystore
from node.ledger_anchor import read_anchor
from tests.audit.chains import write_party
from tests.fuzz.choices import Choices
from tests.fuzz.decoders import (
    Target,
    audit_file,
    join_file,
    ledger_entry,
    node_file,
    policy_file,
    server_state,
    well_coded,
)
from tests.fuzz.scratch import scratch_folder
from tests.fuzz.seeds import seeds
from tests.fuzz.trees import damaged
from tests.support.cohort import POLICIES

_KEY = Secret(bytes(32))


@cache
def _loaded(target: str) -> tuple[Any, ...]:
    """Sound values of a text target."""
    return tuple(yaml.safe_load(raw) for raw in seeds(target))


def _text(tree: object) -> bytes:
    """JSON, which is YAML, too; what JSON cannot say is written as Python does."""
    return json.dumps(tree, default=lambda odd: odd.hex()).encode("utf-8", "replace")


def policy_tree(raw: bytes) -> None:
    """A policy whose fields are wrong."""
    choices = Choices(raw)
    policy_file(_text(damaged(choices.pick(_loaded("policy-file")), choices)))


def node_tree(raw: bytes) -> None:
    """A node.yaml whose fields are wrong."""
    choices = Choices(raw)
    node_file(_text(damaged(choices.pick(_loaded("node-file")), choices)))


def join_tree(raw: bytes) -> None:
    """A join file whose fields are wrong."""
    choices = Choices(raw)
    join_file(_text(damaged(choices.pick(_loaded("join-file")), choices)))


def event_tree(raw: bytes) -> None:
    """A privacy event whose fields are wrong, as JSON and as canonical encoding give it."""
    choices = Choices(raw)
    tree = damaged(choices.pick(_loaded("privacy-event")), choices)
    try:
        flatten(from_record(tree))
    except FedvlmError as error:
        well_coded(error)


@cache
def _audit_lines() -> tuple[Any, ...]:
    with tempfile.TemporaryDirectory() as folder:
        write_party(Path(folder) / "x", "coast", rounds=1, private=True)
        lines = (Path(folder) / "x" / "audit.jsonl").read_bytes().splitlines()
    return tuple(json.loads(line) for line in lines)


def audit_tree(raw: bytes) -> None:
    """Audit records whose fields are wrong."""
    choices = Choices(raw)
    tree = damaged(choices.pick(_audit_lines()), choices)
    audit_file(json.dumps(tree, default=lambda odd: odd.hex(), separators=(",", ":")).encode() + b"\n")


@cache
def _entries() -> tuple[Any, ...]:
    return tuple(canonical.decode(raw[2 : 2 + int.from_bytes(raw[:2], "big")]) for raw in seeds("ledger-entry"))


def ledger_tree(raw: bytes) -> None:
    """Two ledger entries whose fields are wrong: whoever edits the file can write well-formed nonsense."""
    choices = Choices(raw)
    parts = []
    for _ in range(2):
        tree = choices.pick(_entries())
        try:
            parts.append(canonical.encode(damaged(tree, choices) if choices.below(2) else tree))
        except (ValueError, RecursionError, UnicodeEncodeError):
            return
    if len(parts[0]) < 1 << 16:
        ledger_entry(len(parts[0]).to_bytes(2, "big") + b"".join(parts))


def state_tree(raw: bytes) -> None:
    """A server state whose fields are wrong."""
    choices = Choices(raw)
    try:
        stored = canonical.encode(damaged(canonical.decode(seeds("server-state")[0]), choices))
    except (ValueError, RecursionError):
        return
    server_state(stored)


def anchor_file(raw: bytes) -> None:
    """The ledger's anchor: any bytes, or JSON of any shape."""
    choices = Choices(raw)
    tree = {"version": 1, "sequence": 1, "head": "00" * 32, "floors": [], "mac": "00" * 32}
    written = _text(damaged(tree, choices)) if choices.below(2) else choices.rest()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "anchor.json"
        path.write_bytes(written)
        try:
            read_anchor(path, _KEY)
        except FedvlmError as error:
            well_coded(error)


@cache
def _state() -> Path:
    """A hospital's folder with keys and an approval; kept for the life of the process."""
    return scratch_folder()


_KEPT = ("node.json", "tls.key.pem", "identity.key.pem")


def keystore_file(raw: bytes) -> None:
    """One of a keystore's files, damaged."""
    choices = Choices(raw)
    keys = _state() / "keystore"
    if not keys.exists():
        create_keystore(keys, _node())
    path = keys / "keys" / choices.pick(_KEPT)
    sound = path.read_bytes()
    path.write_bytes(_damaged_bytes(sound, choices))
    try:
        open_keystore(keys)
    except FedvlmError as error:
        well_coded(error)
    finally:
        path.write_bytes(sound)


def approval_file(raw: bytes) -> None:
    """An approval, damaged."""
    from datetime import UTC, datetime

    from fedvlm_secure.policy.loading import read_policy

    choices = Choices(raw)
    state = _state() / "approvals"
    if not state.exists():
        state.mkdir()
        approve(state, read_policy(POLICIES / "fedavg.yaml"), datetime(2026, 1, 1, tzinfo=UTC))
    (folder,) = (state / "approved").iterdir()
    path = folder / choices.pick(("0001.approval.json", "0001.run", "policy.yaml"))
    sound = path.read_bytes() if path.exists() else None
    path.write_bytes(_damaged_bytes(sound or Digest(bytes(32)).hex().encode(), choices))
    try:
        approvals(state)
    except FedvlmError as error:
        well_coded(error)
    finally:
        path.unlink() if sound is None else path.write_bytes(sound)


def _damaged_bytes(sound: bytes, choices: Choices) -> bytes:
    match choices.below(5):
        case 0:
            return choices.rest()
        case 1:
            at = choices.below(256) * 7 % (len(sound) + 1)
            return sound[:at] + choices.rest() + sound[at + 1 :]
        case 2:
            return sound[: choices.below(256)]
        case 3:
            return b"[" * 100_000
        case _:
            return _text(damaged({"version": 1, "id": "a", "number": 1, "approved_at": "x"}, choices))


def _node() -> Any:
    from fedvlm_secure.types import node_id

    return node_id("hospital-a")


STORED: dict[str, Target] = {
    "policy-tree": policy_tree,
    "node-tree": node_tree,
    "join-tree": join_tree,
    "event-tree": event_tree,
    "audit-tree": audit_tree,
    "ledger-tree": ledger_tree,
    "state-tree": state_tree,
    "anchor-file": anchor_file,
    "keystore-file": keystore_file,
    "approval-file": approval_file,
}
