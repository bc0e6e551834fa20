"""Shared noise on record: which epsilon stands for whom, and what an auditor says to terms that count on too much."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedvlm_secure.audit.audit_report import render
from fedvlm_secure.audit.export import to_csv
from fedvlm_secure.audit.folder import AuditedRun
from fedvlm_secure.audit.record import AuditRecord, End, PrivacyTerms, Spending, Start
from fedvlm_secure.audit.spending import NOTHING, round_spending
from fedvlm_secure.audit.standing import rounds_of, start_of
from fedvlm_secure.audit.utility import utilities
from fedvlm_secure.audit.verify import verify_chain
from fedvlm_secure.dp.events import Gaussian, PoissonSampled, from_record, to_record
from tests.audit.chains import resign
from tests.audit.test_released_scores import recorded_run
from tests.support.shared_noise_cohort import SharedNoiseCohort

Recorded = tuple[AuditedRun, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Four hospitals, of which one is lost before it sends in the second round."""
    cohort = SharedNoiseCohort(4, rounds=2, dimension=60)
    return recorded_run(tmp_path_factory.mktemp("shared"), cohort.policy, cohort.federation)


def terms_of(run: Recorded, party: str = "a") -> PrivacyTerms:
    start = start_of(run[0].chains[party])
    assert isinstance(start, Start) and start.privacy is not None
    return start.privacy


def last_spending(run: Recorded, party: str = "a") -> Spending:
    spending = rounds_of(run[0].chains[party])[-1].spending
    assert spending is not None
    return spending


def test_every_partys_records_hold(run: Recorded) -> None:
    assert [str(finding) for finding in run[0].findings] == []
    assert set(run[0].chains) == {"aggregator", *"abcd"}


def test_the_number_of_record_is_the_coalitions_and_the_others_stand_beside_it(run: Recorded) -> None:
    for party in ("aggregator", "a"):
        one = last_spending(run, party)
        assert one.epsilon_run is not None and one.epsilon_readers is not None and one.epsilon_worst_case is not None
        assert one.epsilon_readers < one.epsilon_run == one.epsilon_coalition < one.epsilon_worst_case
    end = run[0].chains["a"][-1].body
    assert isinstance(end, End) and end.epsilon_two_hospitals is not None
    one = last_spending(run)
    assert one.epsilon_run is not None and end.epsilon_two_hospitals > one.epsilon_run


def test_noise_guaranteed_and_noise_made_are_both_on_record(run: Recorded) -> None:
    """Four hospitals, one colluder tolerated: three survivors at least, two of them counted on, four that sent."""
    terms = terms_of(run)
    assert terms.shares is not None
    assert (terms.shares.makers, terms.shares.readers, terms.shares.coalition) == (2, 3, 1)
    assert terms.guaranteed_variance == 2 * terms.share_variance
    assert last_spending(run).noise_variance == 4 * terms.share_variance
    assert "rests on the masks" in terms.holds_against and "one other hospital" in terms.holds_against


def test_report_and_table_show_whom_the_number_holds_against(run: Recorded) -> None:
    audited, _ = run
    page = render(audited, utilities(audited))
    assert "the aggregator with one other hospital on its side" in page
    assert "if every other hospital helps the aggregator" in page
    header, first, *_ = to_csv(audited, utilities(audited)).splitlines()
    assert "epsilon_readers" in header and "epsilon_worst_case" in header
    assert len(first.split(",")) == len(header.split(","))


def forged(run: Recorded, index: int, change: Callable[[dict[str, Any]], None]) -> set[tuple[int, str]]:
    """What is found in hospital a's chain after it rewrote one record and signed everything anew."""
    audited, consortium = run
    fields = [record.model_dump(mode="json") for record in audited.chains["a"]]
    change(fields[index]["body"])
    records = [AuditRecord.model_validate_json(json.dumps(one)) for one in fields]
    lied = resign(records, consortium.keystores["a"].identity)
    return {(one.index, one.field) for one in verify_chain(lied, audited.roster)}


def shares(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["privacy"]["shares"].update(changes)


def quieter(body: dict[str, Any]) -> None:
    """Half of each share, told as it was: the events no longer fit."""
    body["privacy"]["share_variance"] //= 2
    body["privacy"]["guaranteed_variance"] //= 2


def boast(name: str) -> Callable[[dict[str, Any]], None]:
    """Twice the noise in one observer's event."""

    def change(body: dict[str, Any]) -> None:
        inner = body["privacy"]["shares"][name]["event"]
        inner = inner.get("event", inner)
        inner["noise_multiplier"] *= 2

    return change


def no_shares(body: dict[str, Any]) -> None:
    body["privacy"]["shares"] = None


def other_name(body: dict[str, Any]) -> None:
    body["privacy"]["mechanism"] = "dp_sgd"


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "more makers than survivors are sure to leave": (shares(makers=3), "shares.makers"),
    "more readers' makers than survivors": (shares(readers=4), "shares.readers"),
    "fewer readers' makers than are counted on": (shares(readers=1), "shares.readers"),
    "no coalition at all": (shares(coalition=0, makers=3), "shares.coalition"),
    "less noise than the events claim": (quieter, "guaranteed_variance"),
    "a guarantee of other shares": (
        lambda body: body["privacy"].update(guaranteed_variance=1 << 40),
        "guaranteed_variance",
    ),
    "a readers' event of more noise": (boast("readers_event"), "shares.readers_event"),
    "a worst case of more noise": (boast("alone_event"), "shares.alone_event"),
    "a cheaper patient of two hospitals": (boast("two_hospitals_event"), "shares.two_hospitals_event"),
    "a step that nobody is charged with": (boast("step_event"), "shares.step_event"),
    "the terms of another mechanism": (no_shares, "shares"),
    "the name of another mechanism": (other_name, "shares"),
    "sums in clear": (lambda body: body.update(protection="none"), "protection"),
}


@pytest.mark.parametrize("lie", LIES)
def test_terms_that_promise_more_than_the_shares_give_are_found(run: Recorded, lie: str) -> None:
    change, field = LIES[lie]
    assert (0, field) in forged(run, 0, change)


def test_a_mixture_of_other_chances_is_found(run: Recorded) -> None:
    def rarer(body: dict[str, Any]) -> None:
        body["privacy"]["shares"]["two_hospitals_event"]["event"]["probabilities"] = [0.98, 0.01, 0.01]

    assert (0, "shares.two_hospitals_event") in forged(run, 0, rarer)


@pytest.mark.parametrize("field", ["epsilon_run", "epsilon_coalition", "epsilon_worst_case", "epsilon_readers"])
def test_each_observers_epsilon_is_computed_again(run: Recorded, field: str) -> None:
    assert (2, field) in forged(run, 2, lambda body: body["spending"].update({field: 0.01}))


def test_more_noise_than_the_survivors_made_is_found(run: Recorded) -> None:
    def louder(body: dict[str, Any]) -> None:
        body["spending"]["noise_variance"] *= 2

    assert forged(run, 1, louder) == {(1, "noise_variance")}


def test_a_patient_of_two_hospitals_is_computed_again(run: Recorded) -> None:
    last = len(run[0].chains["a"]) - 1
    found = forged(run, last, lambda body: body.update(epsilon_two_hospitals=1.0))
    assert found == {(last, "epsilon_two_hospitals")}


def test_a_view_that_no_bound_is_computed_of_is_left_open_and_the_charge_stands(run: Recorded) -> None:
    """One share of hundreds leaves a patient next to nothing; the accountant is not asked to find out how little."""
    terms = terms_of(run)
    assert terms.shares is not None
    little = {**terms.shares.alone_event, "event": to_record(PoissonSampled(0.2, Gaussian(1e-4)))}
    many = terms.model_copy(update={"shares": terms.shares.model_copy(update={"alone_event": little})})
    one = round_spending(many, NOTHING, from_record(terms.round_event), None, 4)
    assert one.epsilon_worst_case is None and one.epsilon_run is not None and one.epsilon_readers is not None


def test_an_honest_chain_with_released_scores_beside_shared_noise_holds(tmp_path: Path) -> None:
    """The scores' noise is each hospital's own: nobody can take it away, and a patient of two hospitals pays twice."""
    cohort = SharedNoiseCohort(3, rounds=1, dimension=60, evaluation={"release": "final", "epsilon": 1.0})
    audited, _ = recorded_run(tmp_path, cohort.policy, cohort.federation)
    assert [str(finding) for finding in audited.findings] == []
    costs = [one.spending.epsilon_round for one in rounds_of(audited.chains["a"]) if one.spending is not None]
    assert len(costs) == 2 and costs[1] is not None and 0.9 < costs[1] <= 1.0
