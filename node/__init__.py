"""A hospital's service: its keys, its approvals, its data and its training stay here."""
