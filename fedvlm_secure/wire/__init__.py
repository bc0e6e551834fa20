"""Messages to bytes and back. What a peer sends is measured before it is parsed, and refused as one kind of error."""
