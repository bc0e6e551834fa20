"""The vector on its way: streamed from the journal, resumed at a chunk border, repeated until it is held there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.actions import Upload
from fedvlm_secure.rounds.vectors import chunk_count
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.wire.codec import from_wire, to_wire
from fedvlm_secure.wire.contract import UPLOAD
from fedvlm_secure.wire.envelopes import Chunk, UploadPart, UploadReply
from fedvlm_secure.wire.tls13 import grpc
from node.client import refusal
from node.traffic import SentBytes

_WAIT_S = 0.5
_FINAL = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED}
)


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Uploader:
    """One thread, one upload at a time; a newer one takes the older's place.

    Args:
        channel: gives the present channel, or None while there is none.
        sent: counts what leaves.
    """

    def __init__(self, channel: Callable[[], grpc.Channel | None], log: EventLog, sent: SentBytes) -> None:
        self._channel, self._log, self._sent = channel, log, sent
        self._changed = threading.Condition()
        self._wanted: Upload | None = None
        self._call: _Cancellable | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def start(self) -> None:
        """Begin to wait for uploads."""
        self._thread.start()

    def offer(self, upload: Upload) -> None:
        """Send this. Offered again while it is on its way, it goes on; an older one is dropped."""
        with self._changed:
            if self._wanted is not None and self._wanted.bundle.header == upload.bundle.header:
                return
            self._wanted = upload
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is on its way and end the thread."""
        with self._changed:
            self._closing, self._wanted = True, None
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()
        self._thread.join(_WAIT_S)

    def _run(self) -> None:
        while (upload := self._next()) is not None:
            channel = self._channel()
            if channel is None or not self._attempt(channel, upload):
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, timeout=_WAIT_S)

    def _next(self) -> Upload | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._wanted is not None)
            return self._wanted

    def _attempt(self, channel: grpc.Channel, upload: Upload) -> bool:
        """Returns whether this upload is settled: held, superseded or refused for good."""
        resume: queue.Queue[int | None] = queue.Queue()
        try:
            call = channel.stream_stream(UPLOAD, None, None)(self._parts(upload, resume))
            with self._changed:
                self._call = call
            for raw in call:
                reply = from_wire(UploadReply, raw)
                if reply.complete:
                    self._settle(upload)
                    self._log.event("uploaded", size_bytes=upload.vector.size_bytes, chunks=reply.chunks_held)
                    return True
                resume.put(reply.chunks_held)
            return False
        except ValueError:  # the channel was closed in between
            return False
        except PeerViolation as error:
            self._log.event("upload_cut", code=error.code, cause=error.cause)
            return False
        except grpc.RpcError as error:
            code, cause = refusal(error)
            self._log.event("upload_cut", code=code, cause=cause)
            if isinstance(error, grpc.Call) and error.code() in _FINAL:
                self._settle(upload)
                return True
            return False
        finally:
            resume.put(None)
            with self._changed:
                self._call = None

    def _settle(self, upload: Upload) -> None:
        with self._changed:
            if self._wanted is upload:
                self._wanted = None

    def _parts(self, upload: Upload, resume: queue.Queue[int | None]) -> Iterator[bytes]:
        yield self._sent.upload(to_wire(UploadPart(bundle=upload.bundle)))
        held = resume.get()
        if held is None:
            return
        for index in range(held, chunk_count(upload.vector)):
            content = upload.vector.chunk(index)
            if content is None:  # erased: the attempt is over, or the round was revealed
                self._settle(upload)
                return
            yield self._sent.upload(to_wire(UploadPart(chunk=Chunk(index=index, content=content))))
