"""Integers modulo 2^64 that carry clipped, scaled, rounded updates in lanes; and back to float."""
