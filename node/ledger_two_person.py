"""`fedvlm-node ledger operator | two-person | confirm`, and what `limit` and `add` do where two people decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fedvlm_secure import console
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.private_file import read_file, write_public
from fedvlm_secure.types import Secret
from node.ledger import Ledger
from node.ledger_consent import Decision
from node.ledger_entries import OperatorsSet
from node.ledger_operators import OperatorKey, create_operator_key, open_operator_key
from node.ledger_proposal import format_proposal, in_words, parse_proposal, with_consent

KeyFile = Annotated[
    Path | None, typer.Option("--operator", help="Your key file, where two people decide on limits together.")
]
ProposalOut = Annotated[Path, typer.Option("--out", help="Where to write what the other operator has to confirm.")]
PROPOSAL = Path("ledger-proposal.json")
Opened = Callable[[typer.Context], Ledger]
Done = Callable[[typer.Context, str], None]


def add_two_person(app: typer.Typer, opened: Opened, done: Done) -> None:
    """Put the three commands on `app`.

    Args:
        opened: the ledger of a context.
        done: says what was done.
    """

    @app.command("operator")
    def operator(
        context: typer.Context,
        name: Annotated[str, typer.Argument(help="Your name, as the ledger will show it.")],
        out: Annotated[Path, typer.Option("--out", help="New file, on a medium that you keep.")],
    ) -> None:
        """Make your own operator's key under a passphrase of yours."""
        passphrase = _secret(typer.prompt(f"New passphrase of {name}", hide_input=True, confirmation_prompt=True))
        create_operator_key(out, name, passphrase)
        done(context, f"made the key of operator {name} in {out}; keep it where nobody else gets at it")

    @app.command("two-person")
    def two_person(
        context: typer.Context,
        keys: Annotated[list[Path] | None, typer.Argument(help="Both operators' key files, to switch it on.")] = None,
        off: Annotated[bool, typer.Option("--off", help="Propose that one operator alone decides again.")] = False,
        operator: KeyFile = None,
        out: ProposalOut = PROPOSAL,
    ) -> None:
        """From now on a higher limit takes both operators. Switching that off takes both, too."""
        ledger = opened(context)
        if off:
            if not ledger.operators:
                raise PolicyError("OPERATORS", "one operator alone decides already", "there is nothing to switch off")
            done(context, decide(ledger, OperatorsSet(()), operator, out))
            return
        held = [unlock(path) for path in keys or ()]
        decision: Decision = OperatorsSet(tuple(key.operator for key in held))
        digest, _ = ledger.to_sign(decision)
        for key in held:
            decision = with_consent(decision, key.consent(digest))
        ledger.decide(decision)
        done(context, in_words(decision))

    @app.command("confirm")
    def confirm(
        context: typer.Context,
        proposal: Annotated[Path, typer.Argument(help="The file that the first operator's command wrote.")],
        operator: KeyFile = None,
    ) -> None:
        """Agree to what the other operator proposed; it holds from then on."""
        ledger = opened(context)
        decision = parse_proposal(read_file(proposal, missing_hint="ask the first operator for it"), str(proposal))
        typer.echo(console.printable(in_words(decision)), err=True)
        done(context, decide(ledger, decision, operator, None))


def decide(ledger: Ledger, decision: Decision, operator: Path | None, out: Path | None) -> str:
    """Take a decision, or write it down for the other operator.

    Args:
        operator: this operator's key file, None where nobody needs to sign.
        out: where a proposal goes; None: there must be none left to be made.

    Returns:
        What was done, in words.

    Raises:
        PolicyError: as `Ledger.decide`.
        IdentityError, StorageError: the key file or the proposal.
    """
    digest, count = ledger.to_sign(decision)
    if count and operator is not None:
        key = unlock(operator)
        decision = with_consent(decision, key.consent(digest))
        if out is not None and len(decision.consents) < count and key.operator in ledger.operators:
            write_public(out, format_proposal(decision))
            return f"proposed, not yet in force: {in_words(decision)}; the other operator confirms {out}"
    ledger.decide(decision)
    return in_words(decision)


def unlock(path: Path) -> OperatorKey:
    """Open a key file, asking for its passphrase."""
    return open_operator_key(path, _secret(typer.prompt(f"Passphrase for {path.name}", hide_input=True)))


def _secret(text: str) -> Secret:
    return Secret(text.encode("utf-8"))
