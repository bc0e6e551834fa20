"""Speed and memory of the protocol beside what other packages do and what the machine can do; and studies."""
