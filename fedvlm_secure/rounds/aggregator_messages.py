"""What each node is owed in the present phase: told to all when a phase begins, and again to who returns."""

from __future__ import annotations

from collections.abc import Iterable

from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory, Phase
from fedvlm_secure.rounds.aggregator_round import AggregatorRound
from fedvlm_secure.secagg.messages import Finished
from fedvlm_secure.types import NodeId


def phase_messages(memory: AggregatorMemory, steps: AggregatorRound, nodes: Iterable[NodeId]) -> Outbox:
    """The present phase's message for each node that has a part in it."""
    members = [node for node in nodes if node in memory.manifest.nodes]
    match memory.phase:
        case Phase.KEYS:
            return tuple(ToNode(node, memory.opened) for node in members if memory.opened is not None)
        case Phase.AGREE:
            return tuple(ToNode(node, memory.keys) for node in members)
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
