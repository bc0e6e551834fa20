"""Sound inputs for each target: where a fuzzer starts from. Small, made anew each time, never stored."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fedvlm_secure import canonical
from fedvlm_secure.audit.chain import AuditChain
from fedvlm_secure.audit.record import End
from fedvlm_secure.dp.events import Composed, Gaussian, Perturbed, PoissonSampled, SelfComposed, to_record
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.policy import identity, join, roster
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.secagg.record import Record, field_types, record_bytes
from fedvlm_secure.types import DIGEST_BYTES, Digest, NodeId, Signature
from fedvlm_secure.wire.codec import to_wire
from node.ledger_entries import GENESIS, Body, Entry, LimitSet, Opened, PatientsBound, PopulationAdded, Reserved, Spent
from tests.fuzz.decoders import RECORDS
from tests.support.cohort import POLICIES

_NODE_YAML = b"""node: hospital-a
state: state
aggregator: 127.0.0.1:7443
population: east
data:
  phantoms: {site: coast, seed: 3, patients: 60}
limits:
  min_patients: 30
"""


def sample(cls: type[Record]) -> Record:
    """One record of a class, every field filled."""
    from fedvlm_secure.wire.envelopes import AggregatorEnvelope, OneOf

    values: dict[str, object] = {name: _value(declared) for name, declared in field_types(cls).items()}
    if issubclass(cls, OneOf):
        body = next(name for name in values if name != "attachment" and isinstance(values[name], Record))
        extra = {"attachment": bytes(DIGEST_BYTES)} if cls is AggregatorEnvelope else {}
        return cls(**{body: values[body], **extra})
    if cls.__name__ == "Certificate":
        values["void_acks"] = ()
    if "code" in values:
        values["code"] = "SOME_CODE"
    if cls is Manifest:
        values["nodes"] = (NodeId("a"), NodeId("b"), NodeId("c"))
    return cls(**values)


def _value(declared: object) -> object:
    import types as pytypes
    import typing

    plain: dict[object, object] = {
        int: 7,
        bool: True,
        float: 0.5,
        str: "text",
        bytes: b"bytes",
        Digest: bytes(DIGEST_BYTES),
        Signature: bytes(64),
        NodeId: NodeId("a"),
    }
    if declared in plain:
        return plain[declared]
    arguments = [one for one in typing.get_args(declared) if one not in (type(None), Ellipsis)]
    if typing.get_origin(declared) is tuple:
        return (_value(arguments[0]),)
    if typing.get_origin(declared) in (pytypes.UnionType, typing.Union):
        return _value(arguments[0])
    if isinstance(declared, type) and issubclass(declared, Record):
        return sample(declared)
    raise TypeError(f"no sample of {declared}")


def seeds(target: str) -> list[bytes]:
    """Sound inputs of a target; none for those whose cases are scripts."""
    makers: dict[str, Callable[[], Iterable[bytes]]] = {
        "wire": _wire,
        "stored-record": _stored,
        "canonical": _canonical,
        "server-state": _state,
        "privacy-event": _events,
        "ledger-entry": _ledger,
        "policy-file": _policies,
        "node-file": lambda: [_NODE_YAML],
        "roster-file": lambda: [_roster()],
        "join-file": lambda: [_join()],
        "certificate": lambda: [_certificate()],
        "audit-file": _audit,
        "upload-header": lambda: [to_wire(next(sample(cls) for cls in RECORDS if cls.__name__ == "UploadHeader"))],
        "public-key": lambda: [bytes(range(32))],
    }
    return list(makers[target]()) if target in makers else []


def _wire() -> Iterable[bytes]:
    return [bytes([at]) + to_wire(sample(cls)) for at, cls in enumerate(RECORDS)]


def _stored() -> Iterable[bytes]:
    return [bytes([at]) + record_bytes(sample(cls)) for at, cls in enumerate(RECORDS)]


def _canonical() -> Iterable[bytes]:
    value = {"a": [1, -1, 0.5, None, True, b"x", "text"], "b": {"c": [[[]]]}}
    return [canonical.encode(value), canonical.encode([])]


def _state() -> Iterable[bytes]:
    import numpy as np

    model = np.arange(4, dtype=np.float32)
    return [ServerState(model, {"m": np.arange(4.0)}, {"beta": 0.9}).to_bytes()]


def _events() -> Iterable[bytes]:
    sampled = PoissonSampled(0.1, Gaussian(1.0))
    event = Composed((SelfComposed(sampled, 20), Perturbed(sampled, 1e-6, 1e-9)))
    return [json.dumps(to_record(event)).encode()]


def _ledger() -> Iterable[bytes]:
    event = Gaussian(1.0)
    bodies: tuple[Body, ...] = (
        Opened(bytes(16)),
        PopulationAdded("east", 1e-6, 8.0),
        PatientsBound("east", bytes(64)),
        LimitSet("east", 9.0),
        Reserved(b"run", "east", event),
        Spent(b"run", 0, event),
    )
    entries = [Entry(number, GENESIS, 1, body).to_bytes() for number, body in enumerate(bodies, 1)]
    return [len(one).to_bytes(2, "big") + one + other for one, other in itertools.pairwise(entries)]


def _policies() -> Iterable[bytes]:
    return [path.read_bytes() for path in sorted(POLICIES.glob("*.yaml"))]


def _roster() -> bytes:
    members = tuple(
        roster.Member(NodeId(name), _public(at), Digest(bytes([at]) * 32)) for at, name in enumerate("abc", 1)
    )
    return roster.format_roster(
        roster.Roster("test", roster.AggregatorKeys(_public(9), Digest(bytes([9]) * 32)), members)
    )


def _key(at: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([at]) * 32)


def _public(at: int) -> bytes:
    return identity.identity_bytes(_key(at).public_key())


def _join() -> bytes:
    key = ec.derive_private_key(7, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return join.request(NodeId("a"), csr, _key(1)).to_json()


def _certificate() -> bytes:
    import datetime

    key = ec.derive_private_key(7, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://fedvlm/node/a")]), False)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(Encoding.PEM)


def _audit() -> Iterable[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        chain = AuditChain(
            path, role="node", party="a", run="00", run_hash="00" * 32, key=_key(1), wall_s=lambda: 1_800_000_000.0
        )
        chain.append(End(outcome="left", code="X", rounds_closed=0, model=None, epsilon_two_hospitals=None))
        return [path.read_bytes()]
