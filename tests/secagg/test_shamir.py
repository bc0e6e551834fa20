"""Shamir over p = 2^256 + 297: known shares, any t recover, t - 1 say nothing."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlm_secure.secagg import shamir
from fedvlm_secure.secagg.shamir import PRIME, combine, draw_coefficients, lagrange_at_zero, share
from fedvlm_secure.types import Secret
from tests.support.entropy import secret
from tests.support.vectors import unhex, vector

EXPECT = vector("shamir")


def recovered(shares: dict[int, bytes]) -> bytes | None:
    weights = dict(zip(shares, lagrange_at_zero(list(shares)), strict=True))
    found = combine(shares, weights)
    return None if found is None else found.reveal()


def test_modulus_is_the_prime_that_the_document_names() -> None:
    # Fermat to several bases: 2^256 + 297 is prime, and is the first one above 2^256 with so small a tail.
    assert PRIME == 2**256 + 297
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37))


def test_coefficients_are_the_independently_drawn_ones() -> None:
    drawn = draw_coefficients(Secret(unhex(EXPECT["coefficient_seed"])), secrets=3, threshold=3)
    assert [str(value) for row in drawn for value in row] == EXPECT["coefficients"]


@pytest.mark.parametrize("case", EXPECT["cases"], ids=lambda case: case["secret"][:8])
def test_shares_are_the_independently_computed_ones(case: dict[str, list[str] | str]) -> None:
    coefficients = tuple(int(value) for value in EXPECT["coefficients"][:2])
    shares = share(Secret(unhex(str(case["secret"]))), coefficients, holders=5)
    assert [row.reveal().hex() for row in shares] == case["shares"]


def test_lagrange_weights_are_the_independently_computed_ones() -> None:
    assert [str(weight) for weight in lagrange_at_zero([0, 2, 4])] == EXPECT["lagrange_at_zero_of_holders_0_2_4"]


def test_shares_that_interpolate_above_32_bytes_are_no_secret() -> None:
    rows = EXPECT["bad"]["interpolates above 32 bytes"]
    for holders in itertools.combinations(range(5), 3):
        assert recovered({holder: unhex(rows[holder]) for holder in holders}) is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.data())
def test_any_t_shares_recover_the_secret(raw: bytes, threshold: int, data: st.DataObject) -> None:
    holders = data.draw(st.integers(threshold, 12))
    (coefficients,) = draw_coefficients(secret("any", holders), secrets=1, threshold=threshold)
    shares = share(Secret(raw), coefficients, holders=holders)
    chosen = data.draw(st.permutations(range(holders)))[:threshold]
    assert recovered({holder: shares[holder].reveal() for holder in chosen}) == raw


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(2, 6), st.data())
def test_t_minus_1_shares_fit_every_secret_equally_well(
    raw: bytes, other: bytes, threshold: int, data: st.DataObject
) -> None:
    """The exact argument: whatever t - 1 shares show, for each secret exactly one polynomial gives just these."""
    holders = threshold + 2
    (coefficients,) = draw_coefficients(secret("less", threshold), secrets=1, threshold=threshold)
    shares = share(Secret(raw), coefficients, holders=holders)
    seen = data.draw(st.permutations(range(holders)))[: threshold - 1]
    points = {0: int.from_bytes(other, "big"), **{h + 1: int.from_bytes(shares[h].reveal(), "big") for h in seen}}
    fitting = _coefficients_through(points)
    again = share(Secret(other), tuple(fitting[1:]), holders=holders)
    assert [again[h].reveal() for h in seen] == [shares[h].reveal() for h in seen]


def _coefficients_through(points: dict[int, int]) -> list[int]:
    """The polynomial of degree < len(points) through the points, by Gauss over the field."""
    size = len(points)
    rows = [[pow(x, j, PRIME) for j in range(size)] + [y] for x, y in points.items()]
    for column in range(size):
        pivot = next(r for r in range(column, size) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for r in range(size):
            if r != column:
                factor = rows[r][column]
                rows[r] = [(a - factor * b) % PRIME for a, b in zip(rows[r], rows[column], strict=True)]
    return [row[size] for row in rows]


def test_in_a_small_field_t_minus_1_shares_are_distributed_alike_for_every_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exhaustive: over p = 7, t = 3, each pair of shares occurs exactly once per secret over all coefficients."""
    monkeypatch.setattr(shamir, "PRIME", 7)
    for seen in itertools.combinations(range(5), 2):
        tables = []
        for value in range(7):
            rows = (
                share(Secret(value.to_bytes(32, "big")), coefficients, holders=5)
                for coefficients in itertools.product(range(7), repeat=2)
            )
            tables.append(Counter(tuple(row[h].reveal() for h in seen) for row in rows))
        assert all(table == tables[0] for table in tables)
        assert set(tables[0].values()) == {1}
        assert len(tables[0]) == 49


def test_coefficients_are_uniform_in_the_field_and_differ_between_secrets() -> None:
    drawn = [value for row in draw_coefficients(secret("many"), secrets=1000, threshold=4) for value in row]
    assert len(set(drawn)) == 3000
    assert all(0 <= value < PRIME for value in drawn)
    counts = Counter(value * 16 // PRIME for value in drawn)
    assert sum((counts[i] - 187.5) ** 2 / 187.5 for i in range(16)) < 37.7  # chi-square, 15 degrees, p = 0.001


def test_holder_counts_once() -> None:
    with pytest.raises(ValueError, match="counts once"):
        lagrange_at_zero([0, 1, 1])


def test_too_few_holders_or_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        share(secret("s"), (1, 2, 3), holders=3)
    with pytest.raises(ValueError, match="32 bytes"):
        share(Secret(bytes(31)), (1,), holders=3)
