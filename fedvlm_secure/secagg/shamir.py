"""Shamir's secret sharing over the field of p = 2^256 + 297, for 32-byte secrets.

Share of holder i (0-based) is the polynomial at x = i + 1, 33 bytes big-endian. Coefficients are uniform in the field,
drawn from one fresh seed by rejection.

Source: Shamir, "How to share a secret", CACM 22(11), 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedvlm_secure.types import Secret

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33

_CANDIDATE = (1 << 257) - 1

Coefficients = tuple[int, ...]


def draw_coefficients(seed: Secret, *, secrets: int, threshold: int) -> tuple[Coefficients, ...]:
    """`threshold - 1` uniform field elements for each of `secrets` polynomials, from one 32-byte seed.

    By rejection from 264-bit candidates (33 bytes of AES-256-CTR keystream), masked to 257 bits: about one in two is
    kept, none is biased.
    """
    stream = Cipher(algorithms.AES256(seed.reveal()), modes.CTR(bytes(16))).encryptor()
    needed = secrets * (threshold - 1)
    drawn: list[int] = []
    while len(drawn) < needed:
        block = stream.update(bytes(SHARE_BYTES * max(8, 2 * (needed - len(drawn)))))
        for at in range(0, len(block), SHARE_BYTES):
            candidate = int.from_bytes(block[at : at + SHARE_BYTES], "big") & _CANDIDATE
            if candidate < PRIME:
                drawn.append(candidate)
                if len(drawn) == needed:
                    break
    width = threshold - 1
    return tuple(tuple(drawn[i * width : (i + 1) * width]) for i in range(secrets))


def share(secret: Secret, coefficients: Coefficients, *, holders: int) -> tuple[Secret, ...]:
    """The shares of all holders: any `len(coefficients) + 1` of them recover the secret, fewer say nothing.

    Raises:
        ValueError: the secret is not 32 bytes or there are fewer holders than the threshold.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError("a shared secret has 32 bytes")
    if holders < len(coefficients) + 1:
        raise ValueError("fewer holders than the threshold")
    polynomial = (*reversed(coefficients), int.from_bytes(secret.reveal(), "big"))
    shares = []
    for x in range(1, holders + 1):
        value = 0
        for coefficient in polynomial:  # Horner; reduced once, since x is small and the value grows by its bits alone
            value = value * x + coefficient
        shares.append(Secret((value % PRIME).to_bytes(SHARE_BYTES, "big")))
    return tuple(shares)


def lagrange_at_zero(holders: Sequence[int]) -> tuple[int, ...]:
    """Weights of the shares of these 0-based holders in the secret.

    Raises:
        ValueError: a holder twice.
    """
    points = [holder + 1 for holder in holders]
    if len(set(points)) != len(points):
        raise ValueError("a holder's share counts once")
    weights = []
    for x in points:
        numerator = denominator = 1
        for other in points:
            if other != x:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - x) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def combine(shares: Mapping[int, bytes], weights: Mapping[int, int]) -> Secret | None:
    """Interpolate at zero from one share per holder; None where the value is no 32-byte secret (a bad dealer).

    Args:
        shares: 33 bytes by 0-based holder.
        weights: `lagrange_at_zero` of exactly these holders, computed once for many secrets.
    """
    value = sum(weights[holder] * int.from_bytes(raw, "big") for holder, raw in shares.items()) % PRIME
    return Secret(value.to_bytes(SECRET_BYTES, "big")) if value < 1 << 256 else None
