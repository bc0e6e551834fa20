"""What each node is owed in the present phase: told to all when a phase begins, and again to who returns."""

from __future__ import annotations

from collections.abc import Iterable

from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory, Phase
from fedvlm_secure.rounds.aggregator_round import AggregatorRound
from fedvlm_secure.secagg.messages import Abort, Finished
from fedvlm_secure.types import NodeId

_TOLD_CHARACTERS = 1000  # of a reason: within MAX_TEXT_BYTES in any script


def abort_message(code: str, cause: str, hint: str) -> Abort:
    """The text fits a message whatever a peer wrote into it and however many hospitals it names."""
    return Abort(code=code, cause=cause[:_TOLD_CHARACTERS], hint=hint[:_TOLD_CHARACTERS])


def phase_messages(memory: AggregatorMemory, steps: AggregatorRound, nodes: Iterable[NodeId]) -> Outbox:
    """The present phase's message for each node that has a part in it."""
    opened = memory.opened
    if opened is None:  # the run ended before it began
        return tuple(ToNode(node, memory.abort) for node in nodes if memory.abort is not None)
    members = [node for node in nodes if node in opened.manifest.nodes]
    match memory.phase:
        case Phase.KEYS:
            return tuple(ToNode(node, memory.opened) for node in members if memory.opened is not None)
        case Phase.SEAL:
            return tuple(ToNode(node, memory.keys) for node in members)
        case Phase.AGREE:
            relayed = memory.he_keys or memory.keys
            return tuple(ToNode(node, relayed) for node in members)
        case Phase.UPLOAD:
            members = [node for node in members if node not in memory.excluded]
            return tuple(ToNode(node, memory.plan) for node in members)
        case Phase.SIGN:
            survivors = [node for node in members if node in memory.survivors]
            return tuple(ToNode(node, steps.survivor_set(node)) for node in survivors)
        case Phase.REVEAL:
            signed = [node for node in members if node in memory.signatures]
            waiting = [n for n in members if n in memory.survivors and n not in signed and steps.protected]
            return (
                *(ToNode(node, steps.reveal_request()) for node in signed),
                *(ToNode(node, steps.survivor_set(node)) for node in waiting),
            )
        case Phase.DECRYPT:
            wanted, answered = memory.decrypt_request, memory.decrypted
            asked = [node for node in members if node in memory.asked and node not in answered]
            unsigned = [node for node in members if node in memory.survivors and node not in memory.signatures]
            return (
                *(ToNode(node, wanted, wanted.sum_root) for node in asked if wanted is not None),
                *(ToNode(node, steps.survivor_set(node)) for node in unsigned),
            )
        case Phase.CERTIFY:
            result = memory.result
            return tuple(ToNode(node, result, result.sum_root) for node in members if result is not None)
        case Phase.VOID:
            request = memory.void_request
            return tuple(ToNode(node, request) for node in members if request is not None)
        case Phase.DONE:
            certificate = memory.certificate
            return tuple(ToNode(node, Finished(certificate=certificate)) for node in members if certificate)
        case Phase.ABORTED:
            abort = memory.abort
            return tuple(ToNode(node, abort) for node in members if abort is not None)
        case _:
            return ()
