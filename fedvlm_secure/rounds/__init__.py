"""One run as one machine for each side: it takes a message and returns what to do. No I/O, no clock, no entropy."""
