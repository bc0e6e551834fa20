"""Differential privacy: integer noise, rounding, sampling, privacy events and their accounting. No I/O, no torch."""
