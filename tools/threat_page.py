"""Writes docs/threats.md from the table of attacks and mutants under tests/support/mutants.

python -m tools.threat_page            write the page
python -m tools.threat_page --check    exit 1 if it is out of date
"""

from __future__ import annotations

import sys

from tools.mutants_table import ROOT, Attack, Mutant, load_attacks, load_mutants

PAGE = ROOT / "docs" / "threats.md"
HEAD = """# Threats

In masking mode an aggregator that follows or breaks the protocol, keeps everything it sees and colludes with up to c
hospitals learns the sum over the survivors, who they are, timing and sizes, or the round ends without a sum. A sum that
is opened holds at least t - c honest inputs. Not promised: what the sum says about a patient without differential
privacy, that the aggregator stays live, that poisoning inside the clip bound is found, or that it stays hidden who took
part. Memory dumps, snapshots and what a disk keeps of overwritten blocks during a round are out of scope.

Each guard below is taken out of the source in turn by `make mutants`, which asks for a red test every time. This page
is made from the same table by `python -m tools.threat_page`; a test compares.

| # | attack | defence | where | guards taken out |
|---|---|---|---|---|
{attacks}
## Guards

| mutant | against | guard | file | tests |
|---|---|---|---|---|
{mutants}"""


def render() -> str:
    """The whole page."""
    mutants = load_mutants()
    return HEAD.format(
        attacks="".join(_attack(attack, mutants) for attack in load_attacks()),
        mutants="".join(_mutant(mutant) for mutant in mutants),
    )


def _attack(attack: Attack, mutants: tuple[Mutant, ...]) -> str:
    own = [mutant for mutant in mutants if attack.number in mutant.attacks]
    files = ", ".join(f"`{file}`" for file in sorted({mutant.file for mutant in own}))
    return f"| {attack.number} | {attack.attack} | {attack.defence} | {files} | {attack.outside or len(own)} |\n"


def _mutant(mutant: Mutant) -> str:
    tests = ", ".join(f"`{test}`" for test in mutant.tests)
    return f"| {mutant.name} | {', '.join(mutant.attacks)} | {mutant.guard} | `{mutant.file}` | {tests} |\n"


def main() -> int:
    """Write the page, or compare it."""
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text(encoding="utf-8") == render() else 1
    PAGE.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
