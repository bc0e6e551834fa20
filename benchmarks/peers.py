"""Other packages' own functions, each in an environment of its own and driven over a pipe.

    python -m benchmarks.peers          # makes the environments under .bench-peers/

Their pins (protobuf above all) do not agree with ours, so nothing of a peer is ever imported here. A peer's script is
one file beside this one: a JSON request a line on its standard input, a JSON answer a line on its output.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".bench-peers"
LIMIT_S = 180.0
LIMIT_BYTES = 16 << 30
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Peer:
    """One package.

    Args:
        name: of its environment.
        script: beside this file.
        bare: requirements installed without what they depend on.
        needs: what the functions that are driven import, with numpy and cryptography in our own versions.
    """

    name: str
    script: str
    bare: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.name / "bin" / "python"


FLOWER = Peer(
    name="flower",
    script="peer_flower.py",
    bare=("flwr==1.42.0",),  # bare: one of its pins asks for a release of certifi that not every index has
    needs=(
        "pycryptodome>=3.18,<4",
        "protobuf>=5.28,<7",
        "grpcio>=1.70,<2",
        "grpcio-health-checking>=1.70,<1.76",
        "iterators==0.0.2",
        "httpx>=0.28,<1",
        "typer>=0.13",
    ),
)
PEERS = (FLOWER,)


class PeerFailed(RuntimeError):
    """A peer cannot be asked, or could not do what it was asked within time and memory."""


class PeerMissing(PeerFailed):
    """Its environment was not made."""


class PeerProcess:
    """A peer's script, running. Use as a context manager: leaving it ends the process."""

    def __init__(self, peer: Peer) -> None:
        if not peer.python.exists():
            raise PeerMissing(f"the environment of {peer.name} is not there; make it with `make bench-peers`")
        self._name = peer.name
        self._process = subprocess.Popen(
            [str(peer.python), str(Path(__file__).with_name(peer.script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": ""},
            preexec_fn=_limit_memory,
        )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, do: str, *, until_s: float | None = None, **request: object) -> dict[str, Any]:
        """One request and its answer.

        Args:
            until_s: on the monotonic clock; LIMIT_S from now without it.

        Raises:
            PeerFailed: it refused, died, or took too long (and was ended).
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise PeerFailed(f"{self._name} was started without pipes")
        deadline_s = until_s if until_s is not None else time.monotonic() + LIMIT_S
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerFailed(f"{self._name} has ended") from error
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline_s - time.monotonic())):
                self._process.kill()
                raise PeerFailed(f"{self._name} was not done with `{do}` within {LIMIT_S:g} s")
        raw = self._process.stdout.readline()
        if not raw:
            raise PeerFailed(f"{self._name} ended during `{do}` (memory is limited to {LIMIT_BYTES >> 30} GiB)")
        answer: dict[str, Any] = json.loads(raw)
        if "error" in answer:
            raise PeerFailed(f"{self._name}: {answer['error']}")
        return answer


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))


def make(peer: Peer) -> None:
    """Make a peer's environment anew.

    Raises:
        subprocess.CalledProcessError: pip says why.
    """
    folder = ENVIRONMENTS / peer.name
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n", encoding="utf-8")
    same = tuple(f"{name}=={version(name)}" for name in ("numpy", "cryptography"))  # so that only the peer differs
    install = [str(peer.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *same, *peer.needs], check=True)
    subprocess.run([*install, "--no-deps", *peer.bare], check=True)


def main() -> None:
    for peer in PEERS:
        make(peer)
        print(f"{peer.name}: {', '.join(peer.bare)} in {ENVIRONMENTS.name}/{peer.name}")


if __name__ == "__main__":
    main()
