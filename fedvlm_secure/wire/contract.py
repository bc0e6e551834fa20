"""Names and limits of the gRPC service, the same at both ends."""

from __future__ import annotations

from fedvlm_secure.wire.fields import MAX_ENVELOPE_BYTES
from fedvlm_secure.wire.generated import fedvlm_pb2

_SERVICE = fedvlm_pb2.DESCRIPTOR.services_by_name["Federation"]
SERVICE = _SERVICE.full_name
SESSION, UPLOAD, DOWNLOAD = (f"/{SERVICE}/{method}" for method in ("Session", "Upload", "Download"))

CODE_METADATA = "fedvlm-code"
"""Trailing metadata key that carries a refusal's stable code."""

KEEPALIVE_MS = 10_000
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_ENVELOPE_BYTES),
    ("grpc.max_send_message_length", MAX_ENVELOPE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
)
"""For both ends. Retries are ours: a message is sent again only if the protocol asks for it."""
