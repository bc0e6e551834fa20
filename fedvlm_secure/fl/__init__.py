"""Server algorithms: (state, aggregate) -> state, on the aggregate alone, replayed bit for bit by every node."""
