"""A whole federation in one process: the same machines, an in-memory transport, a virtual clock."""
