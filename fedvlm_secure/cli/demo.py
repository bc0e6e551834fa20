"""`fedvlm demo`: a whole consortium on this machine, real processes with real certificates, a report at the end."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.errors import FedvlmError, PolicyError, StorageError

if TYPE_CHECKING:
    from fedvlm_secure.cli.consortium import Consortium, SetUp
    from fedvlm_secure.cli.demo_policy import DemoPolicy
    from fedvlm_secure.cli.hospitals import Hospital
    from fedvlm_secure.cli.progress import Progress

PROGRAM = "fedvlm"
DEFAULT_NODES = 3
DEFAULT_SEED = 1
app = typer.Typer(cls=console.error_group(PROGRAM), pretty_exceptions_enable=False, add_completion=False)


class Interrupted(FedvlmError):
    """Ctrl-C, or a signal that asks to end; the usual exit code for it."""

    exit_code = 130


@dataclass(frozen=True)
class DemoOptions:
    """What was asked for; None where an option was not given."""

    policy: Path | None
    data: Path | None
    rounds: int | None
    nodes: int | None
    base: Path | None
    out: Path
    seed: int | None
    keep: bool


@app.command()
def demo(
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", help="Policy; without it policies/dp_fedavg.yaml, or with --data policies/fedavg_images.yaml."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder whose *.jsonl files are one hospital each; phantoms without it."),
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds, instead of the policy's.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="Hospitals of phantoms; 3 without it.")] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="Base made by `fedvlm models build`; the shipped one without it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for the report; runs/demo-TIME without it.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of phantoms, and of the model's common start.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every party's folder: keys, journals, logs.")] = False,
) -> None:
    """Run three or more hospitals and an aggregator as real processes on this machine; ends with a report."""
    folder = out if out is not None else Path("runs") / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    line = run_demo(DemoOptions(policy, data, rounds, nodes, base, folder, seed, keep))
    if as_json:
        console.emit_json(line)


def run_demo(options: DemoOptions) -> dict[str, object]:
    """Everything that `fedvlm demo` does but printing the JSON line.

    Returns:
        The fields of that line.

    Raises:
        FedvlmError: of what failed; every process has ended then.
    """
    from fedvlm_secure.cli.consortium import Consortium
    from fedvlm_secure.cli.demo_policy import default_policy, demo_policy
    from fedvlm_secure.cli.demo_result import write_result

    start_s = time.monotonic()
    hospitals = _hospitals(options)
    source = (
        options.policy
        if options.policy is not None
        else default_policy(own_data=options.data is not None, private=True)
    )
    _make_out(options.out)
    with _ending_on_signals():
        agreed = demo_policy(
            source,
            options.out,
            hospitals,
            rounds=options.rounds,
            seed=options.seed,
            base=options.base,
            own_data=options.data is not None,
        )
        _announce(agreed, hospitals, options)
        work = options.out / "consortium"
        consortium = Consortium(work, agreed.path, hospitals, base=options.base)
        try:
            with consortium:
                ceremony, progress, run_s = _run(consortium, agreed, start_s)
        except FedvlmError:
            console.warn(PROGRAM, f"what every process wrote is in {work / 'logs'}")
            raise
        line = write_result(options, agreed, consortium, ceremony, progress, start_s=start_s, run_s=run_s)
        if not options.keep:
            shutil.rmtree(work)
        return line


def _hospitals(options: DemoOptions) -> tuple[Hospital, ...]:
    from fedvlm_secure.cli.hospitals import folder_hospitals, phantom_hospitals

    if options.data is None:
        nodes = options.nodes if options.nodes is not None else DEFAULT_NODES
        return phantom_hospitals(nodes, options.seed if options.seed is not None else DEFAULT_SEED)
    if options.nodes is not None:
        raise PolicyError("OPTION_WRONG", "--nodes and --data exclude each other", "the files in --data are the nodes")
    return folder_hospitals(options.data)


def _make_out(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(out.iterdir())
    except OSError as error:
        raise StorageError(
            "FOLDER_UNWRITABLE", f"{out}: {error.strerror or 'cannot be made'}", "name another folder with --out"
        ) from error
    if occupied:
        raise StorageError("OUT_OCCUPIED", f"{out} is not empty", "name a new folder with --out")


def _announce(agreed: DemoPolicy, hospitals: Sequence[Hospital], options: DemoOptions) -> None:
    policy = agreed.policy
    console.say(f"policy {policy.name}, rounds: {policy.rounds}, hospitals: {', '.join(h.node for h in hospitals)}")
    if agreed.changed:
        console.say(f"derived policy {agreed.path}: changed {', '.join(agreed.changed)}")
    if options.data is not None and options.base is None:
        console.say(
            "the shipped base has not seen this vocabulary, so accuracy will be low; "
            "make one that has with `fedvlm models build` and name it with --base"
        )
    if policy.protection.method == "none":
        console.warn(PROGRAM, "UNPROTECTED: the aggregator sees every hospital's update in clear")


def _run(consortium: Consortium, agreed: DemoPolicy, start_s: float) -> tuple[SetUp, Progress, float]:
    from fedvlm_secure.cli.live import make_view
    from fedvlm_secure.cli.progress import read_progress

    rounds = agreed.policy.rounds
    ceremony = consortium.set_up()
    console.say(f"roster of {len(consortium.members)} hospitals pinned, fingerprint {ceremony.roster.fingerprint}")
    console.say(f"every hospital approved policy {ceremony.policy_hash.hex()}")
    run_start_s = time.monotonic()
    consortium.start()
    view = make_view()
    try:
        consortium.wait(lambda running: view.show(read_progress(running, rounds), time.monotonic() - start_s))
    finally:
        view.close()
    return ceremony, read_progress(consortium, rounds), time.monotonic() - run_start_s


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or hang-up unwinds the stack and ends every process; later ones cannot break it."""
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

    def interrupt(number: int, _: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted("INTERRUPTED", f"ended by {signal.Signals(number).name}", "every process was ended, too")

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
