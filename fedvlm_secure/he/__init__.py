"""Homomorphic aggregation of the same ring integers: encrypted instead of masked, bit for bit the same sum.

The public half (parameters, public_context, carriage, ciphertext_sum) is arithmetic on whole words and loads no native
library: the aggregator never parses a ciphertext, it checks and adds residues. The secret half (group_secrets, cipher,
tags, encryption, epoch_key, verification) is for nodes alone.
"""
