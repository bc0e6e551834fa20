"""gRPC reads its cipher list once, at import: every test process takes it through the room that sets the list."""

from __future__ import annotations

import fedvlm_secure.wire.tls13  # noqa: F401
