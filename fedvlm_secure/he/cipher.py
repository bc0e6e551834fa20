"""Cipher: symmetric encryption and decryption of slots by SEAL, and nothing else of that library. Nodes only.

The wire form of a ciphertext is its 2N residues. SEAL's own file form is read and written here alone: written from
what this node encrypted itself, read from a frame that this node made around residues it checked.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.he.parameters import HeParameters
from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.types import Float64Vector, Secret, Words

_HEADER = struct.Struct("<HBBBBHQ")
"""SEAL's file header: magic, header size, version major and minor, compression, reserved, total size."""
_MAGIC = 0xA15E
_UNCOMPRESSED = 0
_ZSTANDARD = 2


def _libraries() -> tuple[Any, Any]:
    try:
        import tenseal.sealapi as seal
        import zstandard
    except ImportError as error:
        raise ModelError(
            "HE_LIBRARY_MISSING",
            f"homomorphic aggregation needs a package that is not installed: {error.name}",
            "pip install 'fedvlm-secure[he]', or use protection.method: masking",
        ) from error
    return seal, zstandard


def require_library() -> None:
    """Find out before a run that what `Cipher` needs is installed.

    Raises:
        ModelError: HE_LIBRARY_MISSING.
    """
    _libraries()


class NativeFile:
    """An anonymous file in memory: the library's bindings read and write paths only."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("ciphertext", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._descriptor}"

    def read(self) -> bytes:
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def write(self, *parts: bytes) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwritev(self._descriptor, parts, 0)

    def __del__(self) -> None:
        os.close(self._descriptor)


class Cipher:
    """One epoch's key in the library's hands.

    Args:
        parameters: checked, as `choose_parameters` makes them.
        seed: 64 bytes; the same seed gives the same secret key. Encryption draws from the operating system: under a
            seeded generator two encryptions would share their randomness.

    Raises:
        ModelError: HE_LIBRARY_MISSING, or HE_LIBRARY where the library refuses the parameters or writes another form.
    """

    def __init__(self, parameters: HeParameters, seed: Secret) -> None:
        self.parameters = parameters
        self._seal, zstandard = _libraries()
        self._inflate = zstandard.ZstdDecompressor()
        seeded = self._seal.Blake2xbPRNGFactory(list(struct.unpack("<8Q", seed.reveal())))
        generator = self._seal.KeyGenerator(self._context(seeded))
        self._native = self._context(None)
        key = generator.secret_key()
        self._encryptor = self._seal.Encryptor(self._native, key)
        self._decryptor = self._seal.Decryptor(self._native, key)
        exact = parameters.scheme == "bfv"
        self._encoder = self._seal.BatchEncoder(self._native) if exact else self._seal.CKKSEncoder(self._native)
        self._file = NativeFile()
        self._plain = self._seal.Plaintext()
        self._cipher = self._seal.Ciphertext()
        self._frame = b""
        self._frame = self._learn_frame()

    def _context(self, generator: Any) -> Any:
        seal, own = self._seal, self.parameters
        kind = seal.SCHEME_TYPE.BFV if own.scheme == "bfv" else seal.SCHEME_TYPE.CKKS
        native = seal.EncryptionParameters(kind)
        native.set_poly_modulus_degree(own.degree)
        native.set_coeff_modulus([seal.Modulus(own.modulus)])
        if own.plain_modulus:
            native.set_plain_modulus(seal.Modulus(own.plain_modulus))
        if generator is not None:
            native.set_random_generator(generator)
        context = seal.SEALContext(native, True, seal.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise _library(f"it refuses the parameters: {context.parameters_error_name()}")
        return context

    def _learn_frame(self) -> bytes:
        """Header and members of a ciphertext of these parameters, from one of our own."""
        self.encrypt(np.zeros(self.parameters.slots, dtype=np.uint64))
        stored = self._stored()
        frame = stored[: len(stored) - self.parameters.ciphertext_words * WORD_BYTES]
        magic, size, major, minor, *_ = _HEADER.unpack_from(self._file.read())
        header = _HEADER.pack(magic, size, major, minor, _UNCOMPRESSED, 0, _HEADER.size + len(stored))
        return header + frame

    def _stored(self) -> bytes:
        """Our own last encryption as SEAL writes it, without header and compression."""
        self._file.write()
        self._cipher.save(self._file.path)
        raw = self._file.read()
        if len(raw) < _HEADER.size:
            raise _library("it wrote no header")
        magic, _, _, _, compression, _, total = _HEADER.unpack_from(raw)
        if magic != _MAGIC or total != len(raw) or compression not in (_UNCOMPRESSED, _ZSTANDARD):
            raise _library("it wrote another file form")
        body = raw[_HEADER.size :]
        return self._inflate.decompressobj().decompress(body) if compression == _ZSTANDARD else body

    def encrypt(self, slots: Words) -> bytes:
        """One ciphertext as 2N residues, little-endian, from uint64 [slots], each below 2^slot_bits."""
        own = self.parameters
        if own.scheme == "bfv":
            self._encoder.encode(slots.tolist(), self._plain)
        else:
            half = own.slots // 2
            paired = slots[:half] + 1j * slots[half:]
            self._encoder.encode(paired.tolist(), 2.0**own.scale_bits, self._plain)
        self._encryptor.encrypt_symmetric(self._plain, self._cipher)
        stored = self._stored()
        frame = self._frame[_HEADER.size :]
        size = own.ciphertext_words * WORD_BYTES
        if self._frame and (len(stored) != len(frame) + size or not stored.startswith(frame)):
            raise _library("it wrote another file form than before")
        return stored[-size:]

    def decrypt_unchecked(self, residues: bytes) -> Words | Float64Vector:
        """The slots of one ciphertext, whatever it is: uint64 (bfv), float64 (ckks).

        Dangerous: what it returns for a crafted ciphertext is the secret key, and a float gives the key away by its
        error. Only `EpochKey` calls it, and lets nothing out that is not authenticated.

        Args:
            residues: 2N * 8 bytes, each word below Q (`check_chunk`).
        """
        if len(residues) != self.parameters.ciphertext_words * WORD_BYTES:
            raise ValueError("a ciphertext has 2N residues")
        self._file.write(self._frame, residues)
        self._cipher.load(self._native, self._file.path)
        self._decryptor.decrypt(self._cipher, self._plain)
        if self.parameters.scheme == "bfv":
            return np.fromiter(self._encoder.decode_uint64(self._plain), np.uint64, self.parameters.slots)
        half = self.parameters.slots // 2
        paired = np.fromiter(self._encoder.decode_complex(self._plain), np.complex128, half)
        return np.concatenate([paired.real, paired.imag])

    def noise_budget_bits(self, residues: bytes) -> int:
        """Bits of noise budget left (bfv): what tests and benchmarks hold against `noise_margin`."""
        self._file.write(self._frame, residues)
        self._cipher.load(self._native, self._file.path)
        return int(self._decryptor.invariant_noise_budget(self._cipher))


def _library(cause: str) -> ModelError:
    return ModelError(
        "HE_LIBRARY", f"the homomorphic library cannot be used: {cause}", "install tenseal 0.3.16 or later"
    )
