"""The coordinator's service: it relays, adds and publishes; it holds no model, no data and no decryption key."""
