"""Parameters: primes, security and margins; what could decrypt wrongly cannot be made."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.he.carriage import Carriage
from fedvlm_secure.he.parameters import (
    LARGEST_MODULUS_BITS,
    HeParameters,
    Scheme,
    choose_parameters,
    is_prime,
    ntt_prime,
)
from fedvlm_secure.ring.lanes import THREE_LANES, TWO_LANES
from fedvlm_secure.ring.vector import VectorFormat
from tests.he.encrypted_cohort import EncryptedCohort, parameters_for


@pytest.mark.parametrize("bits", [37, 39, 41, 43, 54, 60])
def test_primes_are_those_the_library_finds(bits: int) -> None:
    assert ntt_prime(bits, 4096) == seal.CoeffModulus.Create(4096, [bits])[0].value()
    assert ntt_prime(bits, 4096) == seal.PlainModulus.Batching(4096, bits).value()


@pytest.mark.parametrize("composite", [3215031751, 341550071728321, 3825123056546413051, (1 << 60) - 1, 561 * 7919])
def test_strong_pseudoprimes_are_not_taken_for_primes(composite: int) -> None:
    assert not is_prime(composite)


def test_security_table_is_the_librarys_own() -> None:
    for degree, bits in LARGEST_MODULUS_BITS.items():
        if degree <= 32768:
            assert seal.CoeffModulus.MaxBitCount(degree, seal.SEC_LEVEL_TYPE.TC128) == bits


@pytest.mark.parametrize(
    ("scheme", "nodes", "value_bits", "lanes", "expansion"),
    [
        ("bfv", 3, 16, 2, 2.01),
        ("bfv", 8, 16, 2, 2.01),
        ("bfv", 32, 16, 2, 2.01),
        ("bfv", 8, 11, 3, 1.34),
        ("bfv", 100, 22, 1, 4.01),
        ("ckks", 8, 16, 2, 2.01),
        ("ckks", 32, 16, 2, 2.01),
    ],
)
def test_upload_in_units_of_plain_float32(
    scheme: Scheme, nodes: int, value_bits: int, lanes: int, expansion: float
) -> None:
    own = parameters_for(scheme, nodes, value_bits)
    assert own.lanes == lanes
    assert own.ciphertext_words * 8 / (own.values * 4) <= expansion


@pytest.mark.parametrize("n", [3, 8, 16, 32])
def test_noise_that_the_library_measures_stays_inside_the_proven_margin(n: int) -> None:
    cohort = EncryptedCohort("bfv", n, draw="largest")
    first = cohort.encrypted_sum()[0][: cohort.parameters.ciphertext_words * 8]
    # the library's budget is log2(Q / (2 * P * noise)); ours bounds it from below for every choice of errors
    assert cohort.cipher.noise_budget_bits(first) >= np.floor(np.log2(cohort.parameters.noise_margin))


@pytest.mark.parametrize("n", [3, 32])
def test_rounding_error_of_ckks_is_as_small_as_its_margin_says(n: int) -> None:
    cohort = EncryptedCohort("ckks", n, dimension=60_000, draw="edges")
    size = cohort.parameters.ciphertext_words * 8
    content = b"".join(cohort.encrypted_sum())
    slots = np.concatenate(
        [cohort.cipher.decrypt_unchecked(content[at : at + size]) for at in range(0, len(content), size)]
    )
    error = np.abs(slots - np.rint(slots))
    sigma = 0.5 / cohort.parameters.noise_margin
    assert float(np.sqrt(np.mean(error**2))) <= sigma
    assert float(error.max()) <= 6 * sigma < 0.25 + 1e-9


@pytest.mark.parametrize(
    "change",
    [
        {"degree": 1024},
        {"degree": 2048},
        {"degree": 4095},
        {"lanes": 3},
        {"lanes": 4},
        {"nodes": 4096},
        {"plain_modulus": 65537},
        {"plain_modulus": ntt_prime(58, 4096)},
        {"modulus": ntt_prime(50, 4096)},
    ],
    ids=str,
)
def test_unsafe_bfv_parameters_cannot_be_made(change: dict[str, Any]) -> None:
    own = parameters_for("bfv", 32)
    assert dataclasses.replace(own) == own
    with pytest.raises(PolicyError, match="HE_UNSAFE"):
        dataclasses.replace(own, **change)


@pytest.mark.parametrize("change", [{"scale_bits": 14}, {"scale_bits": 17}, {"lanes": 3}, {"nodes": 500}], ids=str)
def test_unsafe_ckks_parameters_cannot_be_made(change: dict[str, Any]) -> None:
    own = parameters_for("ckks", 32)
    with pytest.raises(PolicyError, match="HE_UNSAFE"):
        dataclasses.replace(own, **change)


def test_an_exhausted_budget_decrypts_wrongly_without_any_error() -> None:
    """Why margins are computed: the library itself gives no sign."""
    native = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    native.set_poly_modulus_degree(4096)
    native.set_coeff_modulus([seal.Modulus(ntt_prime(60, 4096))])
    native.set_plain_modulus(seal.Modulus(ntt_prime(58, 4096)))
    context = seal.SEALContext(native, True, seal.SEC_LEVEL_TYPE.TC128)
    key = seal.KeyGenerator(context).secret_key()
    encoder, plain, cipher = seal.BatchEncoder(context), seal.Plaintext(), seal.Ciphertext()
    values = list(range(4096))
    encoder.encode(values, plain)
    seal.Encryptor(context, key).encrypt_symmetric(plain, cipher)
    seal.Decryptor(context, key).decrypt(cipher, plain)
    assert encoder.decode_uint64(plain) != values


def test_cohort_too_large_is_refused_with_the_largest_that_fits() -> None:
    schemes: tuple[Scheme, ...] = ("bfv", "ckks")
    for scheme in schemes:
        with pytest.raises(PolicyError) as caught:
            choose_parameters(scheme, nodes=100_000, value_bits=22)
        assert caught.value.code == "HE_HEADROOM"
        fits = int(caught.value.hint.split()[2])
        assert isinstance(choose_parameters(scheme, nodes=fits, value_bits=22), HeParameters)
        with pytest.raises(PolicyError):
            choose_parameters(scheme, nodes=fits + 1, value_bits=22)


def test_a_lane_as_wide_as_the_tags_prime_is_refused() -> None:
    """A lane that may change by a multiple of the prime could be altered under every tag."""
    assert choose_parameters("bfv", nodes=60, value_bits=24).lane_bits == 30
    with pytest.raises(PolicyError, match="HE_HEADROOM"):
        choose_parameters("bfv", nodes=130, value_bits=24)


def test_a_vector_of_another_width_does_not_ride() -> None:
    own = parameters_for("bfv", 8)
    Carriage(own, VectorFormat(10, THREE_LANES))
    with pytest.raises(ValueError, match="different runs"):
        Carriage(own, VectorFormat(10, TWO_LANES))
    with pytest.raises(ValueError, match="different runs"):
        Carriage(parameters_for("bfv", 33), VectorFormat(10, THREE_LANES))
