"""What a demo leaves: report.json, report.html, the tuned adapter, a table, and the fields of the JSON line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import fedvlm_secure
from fedvlm_secure import console
from fedvlm_secure.audit.report import write_report
from fedvlm_secure.audit.summary import (
    Party,
    RoundSummary,
    RunSummary,
    Sight,
    policy_facts,
    round_summaries,
)
from fedvlm_secure.cli.accuracy import accuracy_by_round
from fedvlm_secure.cli.demo_audit import audit_demo
from fedvlm_secure.cli.progress import Progress
from fedvlm_secure.cli.released_scores import show_scores
from fedvlm_secure.policy.explain import unprotected, visibility
from node.export import export_run

if TYPE_CHECKING:
    from fedvlm_secure.cli.consortium import Consortium, SetUp
    from fedvlm_secure.cli.demo import DemoOptions
    from fedvlm_secure.cli.demo_policy import DemoPolicy

NETWORK = Sight("whoever listens on the network", "who talks to whom, when, and how many bytes; TLS 1.3 hides the rest")
UNSEEN_VOCABULARY = "The shipped base has not seen this vocabulary: accuracy is lower than a fitting base would give."


def write_result(
    options: DemoOptions,
    agreed: DemoPolicy,
    consortium: Consortium,
    ceremony: SetUp,
    progress: Progress,
    *,
    start_s: float,
    run_s: float,
) -> dict[str, object]:
    """Write all files, print the result, and return the JSON line's fields.

    Args:
        start_s: of the command, by the monotonic clock.
        run_s: seconds from the start of the processes to the end of the last.
    """
    adapter = options.out / "adapter"
    export_run(next(iter(consortium.members.values())).state, adapter, base=options.base)
    seconds = {
        "total": round(time.monotonic() - start_s, 1),
        "set_up": round(ceremony.seconds, 2),
        "training": round(run_s, 1),
    }
    summary = summarise(options, agreed, consortium, ceremony, progress, seconds)
    report = write_report(summary, options.out)
    scores = show_scores(agreed.policy, summary.accuracy, progress.closed)
    console.say(f"adapter: {adapter}")
    audit = audit_demo(consortium, summary.run, options.out)
    console.say(f"report: {report}")
    console.say(f"audit report: {audit.report}; all records hold, they are in {audit.folder}")
    return {
        **json_line(summary),
        **scores,
        "process_ids": consortium.pids,
        "report": str(report),
        "audit": audit.as_json(),
        "epsilon": audit.epsilon_json(),
        "seconds": seconds,
    }


def summarise(
    options: DemoOptions,
    agreed: DemoPolicy,
    consortium: Consortium,
    ceremony: SetUp,
    progress: Progress,
    seconds: dict[str, float],
) -> RunSummary:
    """The run as its report tells it."""
    policy, roster, public = agreed.policy, ceremony.roster, consortium.progress
    unseen = options.data is not None and options.base is None
    seen = [Sight(entry.party, entry.sees) for entry in visibility(policy)]
    return RunSummary(
        run=str(public["run"]),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        software=f"fedvlm-secure {fedvlm_secure.__version__}",
        policy=policy_facts(policy, ceremony.policy_hash),
        data="synthetic radiograph phantoms" if options.data is None else f"files of {options.data.resolve().name}",
        note=UNSEEN_VOCABULARY if unseen else "",
        dimension=int(str(public["dimension"])),
        threshold=int(str(public["threshold"])),
        colluding=int(str(public["colluding"])),
        roster=roster.fingerprint,
        aggregator=Party("aggregator", roster.aggregator.fingerprint, ceremony.serials["aggregator"]),
        hospitals=tuple(
            Party(member.node, member.fingerprint, ceremony.serials[member.node]) for member in roster.members
        ),
        rounds=round_summaries(progress.closed, {r: progress.sent(r) for r in range(1, progress.rounds + 1)}),
        accuracy=tuple(progress.accuracies()),
        question_limit=policy.evaluation.limit,
        visibility=(*seen[:-1], NETWORK, *seen[-1:]),
        unprotected=(*collusion(len(roster.members), public), *unprotected(policy)),
        seconds=seconds,
    )


def collusion(nodes: int, public: Mapping[str, object]) -> tuple[str, ...]:
    """What the cohort's size leaves open."""
    if public["colluding"] != 0:
        return ()
    return (
        f"against collusion: with {nodes} hospitals, one dishonest or restored one that helps the aggregator is enough",
    )


def json_line(summary: RunSummary) -> dict[str, object]:
    """The fields that say what happened; rounds count from 1, round 0 of `accuracy` is before training."""
    return {
        "run": summary.run,
        "policy": summary.policy.name,
        "policy_hash": summary.policy.digest,
        "protection": summary.policy.protection,
        "privacy": summary.policy.privacy,
        "nodes": [party.name for party in summary.hospitals],
        "rounds": len(summary.rounds),
        "accuracy": accuracy_by_round(summary.accuracy),
        "upload_bytes": [_sent(entry) for entry in summary.rounds],
        "plain_bytes": [
            {"round": entry.round, "nodes": dict.fromkeys(entry.survivors, entry.plain_bytes)}
            for entry in summary.rounds
        ],
        "participation": [{"round": entry.round, "nodes": list(entry.survivors)} for entry in summary.rounds],
        "certificate_serials": {party.name: party.serial for party in (summary.aggregator, *summary.hospitals)},
    }


def _sent(entry: RoundSummary) -> dict[str, object]:
    """As each hospital counted; the vector's length where it did not count this round by itself."""
    counted = {sent.node: sent.upload_bytes for sent in entry.sent}
    return {"round": entry.round, "nodes": counted or dict.fromkeys(entry.survivors, entry.vector_bytes)}
