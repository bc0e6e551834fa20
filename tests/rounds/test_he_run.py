"""Whole runs whose updates are added under homomorphic encryption."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import ModelError, PolicyError, RunAborted
from fedvlm_secure.he import cipher
from fedvlm_secure.policy.explain import explain, unprotected
from fedvlm_secure.policy.privacy import DpSgd
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.he_terms import carriage_of
from fedvlm_secure.secagg.messages import DecryptRequest, Result
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort, numeric_policy
from tests.support.private_cohort import private_sections
from tests.support.witness import Witness

SCHEMES = ("bfv", "ckks")
PHASES = [
    *(Phase.KEYS, Phase.SEAL, Phase.AGREE, Phase.UPLOAD, Phase.SIGN, Phase.DECRYPT, Phase.CERTIFY),
]


def encrypted(n: int, scheme: str = "bfv", **changes: Any) -> Cohort:
    return Cohort(n, protection={"method": scheme}, **changes)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [3, 5])
def test_encrypted_and_masked_runs_come_to_the_same_model_and_totals_bit_for_bit(scheme: str, n: int) -> None:
    runs = [encrypted(n, scheme, rounds=3, seed=7, dimension=9001), Cohort(n, rounds=3, seed=7, dimension=9001)]
    for run in runs:
        run.run()
    ours, masked = runs
    assert ours.federation.state.digest == masked.federation.state.digest
    for one, other in zip(ours.summaries(), masked.summaries(), strict=True):
        assert (one["weight"], one["loss"], one["tasks"]) == (other["weight"], other["loss"], other["tasks"])
    assert all(not node.violations for node in ours.federation.nodes.values())


ALGORITHMS: list[dict[str, object]] = [
    {"name": "fedavgm", "momentum": 0.9},
    {"name": "fedadagrad", "server_lr": 0.01, "beta1": 0.5},
    {"name": "fedadam", "server_lr": 0.01},
    {"name": "fedyogi", "server_lr": 0.01},
    {"name": "fedprox", "mu": 0.1},
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda section: str(section["name"]))
def test_every_algorithm_steps_the_same_from_an_encrypted_sum(algorithm: dict[str, object]) -> None:
    runs = [encrypted(3, rounds=2, algorithm=algorithm), Cohort(3, rounds=2, algorithm=algorithm)]
    for run in runs:
        run.run()
    assert runs[0].federation.state.digest == runs[1].federation.state.digest


@pytest.mark.parametrize("scheme", SCHEMES)
def test_noised_scores_of_a_private_run_ride_encrypted_with_their_sign(scheme: str) -> None:
    """A closing round's scores may be negative: two's complement in a masked word, whole words of limbs here."""
    sections = {**private_sections("abc"), "evaluation": {"release": "final", "epsilon": 0.5}}
    runs = [encrypted(3, scheme, rounds=1, **sections), Cohort(3, rounds=1, **sections)]
    for run in runs:
        assert isinstance(run.policy.privacy, DpSgd)
        run.run()
    ours, masked = (run.summaries() for run in runs)
    assert len(ours) == 2 and ours[1]["released"] and ours[1]["released"] == masked[1]["released"]
    assert {number for _, number in runs[0].federation.purses[NodeId("b")].charges} == {0, 1}


def test_an_upload_is_ciphertexts_of_the_stated_size_and_says_nothing_of_the_integers() -> None:
    cohort = encrypted(3, dimension=9001)
    cohort.run(until=Phase.SIGN)
    memory = cohort.federation.aggregator_self.memory
    words = carriage_of(memory.manifest).words
    ctx = memory.bundles[NodeId("a")].header.ctx
    contents = {node: b"".join(cohort.federation.spool.chunks(ctx, node)) for node in memory.bundles}
    assert {len(content) for content in contents.values()} == {8 * words}
    for node, content in contents.items():
        integers = cohort.federation.nodes[node].own.memory.integers
        assert integers is not None and (integers.chunk(0) or b"")[:64] not in content
        header = memory.bundles[node].header
        assert (header.pair_commitments, header.sealed_hashes, memory.bundles[node].sealed) == ((), (), ())


def test_summary_states_the_bytes_of_the_ciphertexts_and_who_decrypted() -> None:
    cohort = encrypted(4, dimension=9001)
    cohort.run()
    summary = cohort.summaries()[0]
    words = carriage_of(cohort.federation.aggregator_self.memory.manifest).words
    assert summary["upload_bytes"] == 8 * words
    assert (summary["decrypted_by"], summary["disagreed"]) == (["a", "b"], [])


@pytest.mark.parametrize("phase", PHASES)
def test_aggregator_restarted_in_any_phase_goes_on(phase: Phase) -> None:
    cohort = encrypted(4, rounds=2)
    cohort.run(until=phase)
    cohort.federation.restart_aggregator()
    cohort.run()
    assert [summary["survivors"] for summary in cohort.summaries()] == [list("abcd")] * 2
    assert [summary["void"] for summary in cohort.summaries()] == [False, False]


@pytest.mark.parametrize("victim", ["a", "c"])
@pytest.mark.parametrize("phase", PHASES)
def test_node_restarted_in_any_phase_goes_on(phase: Phase, victim: str) -> None:
    cohort = encrypted(4, rounds=2)
    cohort.run(until=phase)
    cohort.federation.drop(NodeId(victim))
    cohort.federation.connect(NodeId(victim))
    cohort.run()
    assert cohort.federation.nodes[NodeId(victim)].own.memory.state.digest == cohort.federation.state.digest
    assert cohort.summaries()[1]["survivors"] == list("abcd")


def test_node_lost_before_its_upload_is_left_out_exactly() -> None:
    cohort = encrypted(4)
    cohort.run(until=Phase.UPLOAD)
    cohort.federation.drop(NodeId("a"))
    cohort.run()
    assert cohort.summaries()[0]["survivors"] == ["b", "c", "d"]
    expected = cohort.mean_update(0, over=["b", "c", "d"])
    assert np.abs(cohort.federation.state.model - expected).max() < 2.0**-15 * 4096 / 100
    assert cohort.summaries()[0]["decrypted_by"] == ["b", "c"]


@pytest.mark.parametrize("lost", ["a", "b"])
def test_decryptor_that_dies_is_followed_by_the_next_one(lost: str) -> None:
    cohort = encrypted(5)

    def dies(direction: str, node: NodeId, message: object) -> bool:
        if direction == "down" and isinstance(message, DecryptRequest) and node == lost:
            cohort.federation._after(0.0, lambda: cohort.federation.drop(NodeId(lost)))
            return False
        return True

    cohort.federation._tap = dies
    cohort.run()
    summary = cohort.summaries()[0]
    assert summary["survivors"] == list("abcde")
    assert summary["decrypted_by"] == [name for name in "abc" if name != lost]


def test_decryptor_that_stays_silent_is_followed_by_the_next_one_after_the_deadline() -> None:
    cohort = encrypted(4, tap=lambda direction, node, message: node != "a" or not isinstance(message, DecryptRequest))
    cohort.run()
    assert cohort.summaries()[0]["decrypted_by"] == ["b", "c"]
    assert cohort.federation.now_s >= float(cohort.policy.cohort.deadline)


def test_round_that_nobody_decrypts_is_closed_void_and_the_run_goes_on() -> None:
    asked: list[int] = []

    def mute(direction: str, node: NodeId, message: object) -> bool:
        if isinstance(message, DecryptRequest):
            asked.append(cohort.federation.aggregator_self.memory.plan.round)
            return asked[-1] > 0
        return True

    cohort = encrypted(3, rounds=2, tap=mute)
    cohort.run()
    assert [summary["void"] for summary in cohort.summaries()] == [True, False]


def test_each_epoch_has_its_own_key_and_leaves_none_behind() -> None:
    cohort = encrypted(3, rounds=4, cohort={"epoch_rounds": 2})
    keys: dict[int, set[bytes]] = {}

    def note(direction: str, node: NodeId, message: object) -> bool:
        if isinstance(message, Result):
            journal = cohort.federation.nodes[node].own.memory.journal
            keys.setdefault(message.round // 2, set()).add(journal.get("epoch/he-secrets") or b"")
        return True

    cohort.federation._tap = note
    cohort.run()
    assert len(keys) == 2 and all(len(found) == 1 for found in keys.values()) and keys[0] != keys[1]
    for simulated in cohort.federation.nodes.values():
        journal = simulated.own.memory.journal
        assert journal.get("epoch/he-secrets") is None and journal.get("epoch/roots") is None


def test_withdrawing_hospital_erases_its_key() -> None:
    cohort = encrypted(3)
    cohort.run(until=Phase.UPLOAD)
    simulated = cohort.federation.nodes[NodeId("b")]
    simulated.run.withdraw(RunAborted("WITHDRAWN", "the operator left", ""))
    assert simulated.own.memory.group_secrets is None


def test_the_witness_finds_no_broken_promise_in_an_encrypted_run() -> None:
    witness = Witness()
    cohort = encrypted(4, rounds=3, tap=witness.tap)
    witness.watch(cohort.federation)
    cohort.run()
    witness.check_end(cohort.federation)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tolerated_colluders_are_refused_where_every_hospital_holds_the_key(scheme: str) -> None:
    with pytest.raises(ValueError, match="holds the key that opens every update"):
        numeric_policy(protection={"method": scheme}, cohort={"colluding": 1})
    assert encrypted(5, scheme).policy.cohort.colluding == "auto"


def test_encrypted_cohort_tolerates_no_colluder_whatever_its_size() -> None:
    cohort = encrypted(5)
    cohort.run(until=Phase.UPLOAD)
    manifest = cohort.federation.aggregator_self.memory.manifest
    assert (manifest.colluding, manifest.threshold, manifest.protection) == (0, 3, "bfv")


def test_cohort_too_large_for_the_ciphertexts_is_refused_with_the_number_that_fits() -> None:
    from fedvlm_secure.policy import feasibility

    policy = numeric_policy(protection={"method": "ckks", "lanes": 2})
    with pytest.raises(PolicyError, match="no room for the sum of 1000 nodes") as caught:
        feasibility.check(policy, 1000)
    assert caught.value.code == "HE_HEADROOM" and "nodes fit" in caught.value.hint


def test_hospital_without_the_library_leaves_with_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> tuple[Any, Any]:
        raise ModelError("HE_LIBRARY_MISSING", "a package is not installed: tenseal", "pip install 'fedvlm-secure[he]'")

    monkeypatch.setattr(cipher, "_libraries", missing)
    cohort = encrypted(3)
    cohort.run(until=lambda f: all(node.stopped for node in f.nodes.values()))
    assert cohort.phase is Phase.UPLOAD and not cohort.federation.aggregator_self.memory.uploaded


def test_explanation_says_who_holds_the_key_and_what_is_gained_only_where_it_is_so() -> None:
    text = {
        method: "\n".join(
            line
            for _, lines in explain(numeric_policy(protection={"method": method}), 5, 90_000).paragraphs
            for line in lines
        )
        for method in ("masking", *SCHEMES)
    }
    for scheme in SCHEMES:
        for word in (
            "secret_key_holders: all members",
            "collusion_tolerance: 0",
            "no forward secrecy",
            "burns the key",
        ):
            assert word in text[scheme] and word not in text["masking"]
        assert "with up to 0 hospitals" in text[scheme] and "with up to 1 hospitals" in text["masking"]
        assert f"90000 values: {11 * 65536} bytes" in text[scheme]
    assert "secret_key_holders" in "".join(unprotected(numeric_policy(protection={"method": "bfv"})))
