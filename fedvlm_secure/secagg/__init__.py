"""Masked aggregation: keys, Shamir sharing, masks, the messages, and both sides of one attempt. No I/O, no clock."""
