"""Every decoder as a fuzz target: any bytes give a value, or the one kind of error that the decoder promises.

A decoder that a peer or an operator reaches promises an error of our tree with a stable code. The inner ones (canonical
encoding, records, server states, ledger entries) promise ValueError, which their callers turn into such an error.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from fedvlm_secure import canonical
from fedvlm_secure.audit.chain import read_chain
from fedvlm_secure.dp.events import flatten, from_record, to_record
from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.policy import feasibility, join, roster
from fedvlm_secure.policy.binding import Binder
from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.policy.peers import node_behind
from fedvlm_secure.policy.schema import NOT_YET, Policy
from fedvlm_secure.policy.yaml_tree import read_tree
from fedvlm_secure.secagg import messages, setup_messages, shamir
from fedvlm_secure.secagg.headers import check_header
from fedvlm_secure.secagg.pairs import check_public_key
from fedvlm_secure.secagg.record import Record, Statement, record_bytes, record_from_bytes
from fedvlm_secure.secagg.sealing import open_sealed
from fedvlm_secure.types import Digest, NodeId, Secret
from fedvlm_secure.wire import envelopes
from fedvlm_secure.wire.codec import from_wire, to_wire
from node.ledger_book import Book
from node.ledger_entries import parse_entry
from tests.fuzz.choices import Choices

Target = Callable[[bytes], None]

_SKIPPED = (Record, Statement, envelopes.OneOf)
RECORDS: tuple[type[Record], ...] = tuple(
    value
    for module in (envelopes, messages, setup_messages)
    for value in vars(module).values()
    if isinstance(value, type)
    and issubclass(value, Record)
    and value.__module__ == module.__name__
    and value not in _SKIPPED
)
_ZERO = Digest(bytes(32))
_FOLDER = Path("/nowhere")


def well_coded(error: FedvlmError) -> None:
    """An error of the tree says what it must say, on one line, and not too much.

    Raises:
        AssertionError: it does not.
    """
    code = error.code
    if not (code and code.isascii() and code.replace("_", "").isalnum() and code == code.upper()):
        raise AssertionError(f"no stable code: {code!r}")
    if not error.cause or len(error.cause) > 2000:
        raise AssertionError(f"{code}: the cause has {len(error.cause)} characters")


def wire(raw: bytes) -> None:
    """A message of either side, from the wire."""
    choices = Choices(raw)
    cls = choices.pick(RECORDS)
    try:
        record = from_wire(cls, choices.rest())
    except FedvlmError as error:
        return well_coded(error)
    if from_wire(cls, to_wire(record)) != record:
        raise AssertionError(f"{cls.__name__} does not come back as it was sent")
    return None


def canonical_value(raw: bytes) -> None:
    """The canonical encoding has one form for each value."""
    try:
        value = canonical.decode(raw)
    except ValueError:
        return
    if canonical.encode(value) != raw:
        raise AssertionError("two encodings of one value")


def stored_record(raw: bytes) -> None:
    """A record as a journal holds it."""
    choices = Choices(raw)
    cls = choices.pick(RECORDS)
    stored = choices.rest()
    try:
        record = record_from_bytes(cls, stored)
    except ValueError:
        return
    if record_bytes(record) != stored:
        raise AssertionError(f"two encodings of one {cls.__name__}")


def server_state(raw: bytes) -> None:
    """The attachment of a CatchUp. It is read piece by piece: what is taken must decode as a whole, too."""
    try:
        state = ServerState.from_bytes(raw)
        digest = state.digest
    except ValueError:
        return
    if len(digest) != 32:
        raise AssertionError("a state without a digest")
    if len(canonical.decode(raw)["model"]) != 4 * len(state.model):
        raise AssertionError("a state of another size than its bytes")


def privacy_event(raw: bytes) -> None:
    """A privacy event from a JSON record."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    try:
        event = from_record(record)
    except FedvlmError as error:
        return well_coded(error)
    flatten(event)
    if from_record(to_record(event)) != event:
        raise AssertionError("an event does not come back as it was written")
    return None


def ledger_entry(raw: bytes) -> None:
    """Two entries of a budget ledger, one after the other: what stands in the file may be anything."""
    choices = Choices(raw)
    split = int.from_bytes(choices.take(2), "big")
    book = Book()
    for part in (choices.take(split), choices.rest()):
        try:
            entry = parse_entry(part)
            if parse_entry(entry.to_bytes()) != entry:
                raise AssertionError("an entry does not come back as it was written")
            book.apply(entry.body)
        except ValueError:
            continue


def policy_file(raw: bytes) -> None:
    """A policy, up to what can be said without its folder."""
    binder = Binder("policy.yaml", "policy field", _FOLDER, NOT_YET, "see the guide")
    try:
        policy = binder.bind(read_tree(raw, "policy.yaml"), Policy)
        feasibility.check_smallest(policy, binder.place)
    except FedvlmError as error:
        well_coded(error)


def node_file(raw: bytes) -> None:
    """A hospital's node.yaml."""
    binder = Binder("node.yaml", "field of node.yaml", _FOLDER, {}, "see the guide")
    try:
        binder.bind(read_tree(raw, "node.yaml"), NodeConfig)
    except FedvlmError as error:
        well_coded(error)


def roster_file(raw: bytes) -> None:
    """roster.toml; what is accepted has one text."""
    try:
        found = roster.parse_roster(raw, "roster.toml")
    except FedvlmError as error:
        return well_coded(error)
    if roster.parse_roster(roster.format_roster(found), "again") != found:
        raise AssertionError("a roster does not come back as it was written")
    return None


def join_file(raw: bytes) -> None:
    """NODE.join, which strangers write."""
    try:
        join.parse(raw, "x.join").fingerprint
    except FedvlmError as error:
        well_coded(error)


def certificate(raw: bytes) -> None:
    """A peer's certificate from the TLS layer (PEM), against an empty roster."""
    try:
        node_behind(raw, roster.Roster("test", roster.AggregatorKeys(bytes(32), _ZERO), ()))
    except FedvlmError as error:
        well_coded(error)


def audit_file(raw: bytes) -> None:
    """audit.jsonl, as an auditor gets it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(raw)
        file.flush()
        try:
            records = read_chain(Path(file.name), torn_tail=raw[:1] == b"\x00")
        except FedvlmError as error:
            return well_coded(error)
    for record in records:
        if len(record.digest) != 32:
            raise AssertionError("a record without a digest")
    return None


def dealt_shares(raw: bytes) -> None:
    """What a dealer seals for a holder, and what holders reveal of it: any bytes open to nothing, or to shares."""
    choices = Choices(raw)
    secrets = 1 + choices.below(5)
    blob = choices.take(33 * secrets + 28) if choices.below(2) else choices.rest()
    key, dealer, holder = Secret(bytes(32)), NodeId("a"), NodeId("b")
    shares = open_sealed(key, blob, ctx=_ZERO, dealer=dealer, holder=holder, secrets=secrets)
    if shares is not None and (len(shares) != secrets or any(len(one) != 33 for one in shares)):
        raise AssertionError("shares of another size")
    holders = [choices.below(7), 8, 9]
    weights = dict(zip(holders, shamir.lagrange_at_zero(holders), strict=True))
    combined = shamir.combine({holder: choices.take(33) for holder in holders}, weights)
    if combined is not None and len(combined) != 32:
        raise AssertionError("a secret of another size")


def public_key(raw: bytes) -> None:
    """A peer's X25519 key."""
    try:
        check_public_key(raw)
    except FedvlmError as error:
        well_coded(error)


def upload_header(raw: bytes) -> None:
    """A header against a cohort of three, signature and all."""
    from fedvlm_secure.secagg.cohort import Cohort

    cohort = Cohort(tuple(NodeId(name) for name in "abc"), 0, 2, 3)
    try:
        header = from_wire(messages.UploadHeader, raw)
        identities = dict.fromkeys(cohort.nodes, bytes(range(32)))
        check_header(header, ctx=_ZERO, cohort=cohort, words=10, identities=identities)
    except FedvlmError as error:
        well_coded(error)


DECODERS: dict[str, Target] = {
    "wire": wire,
    "canonical": canonical_value,
    "stored-record": stored_record,
    "server-state": server_state,
    "privacy-event": privacy_event,
    "ledger-entry": ledger_entry,
    "policy-file": policy_file,
    "node-file": node_file,
    "roster-file": roster_file,
    "join-file": join_file,
    "certificate": certificate,
    "audit-file": audit_file,
    "dealt-shares": dealt_shares,
    "public-key": public_key,
    "upload-header": upload_header,
}
