"""The house: who may import whom, what the aggregator's process loads, and calls that have no place here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedvlm_secure", "node", "aggregator")
SOURCES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "generated" not in path.parts
)

COMMAND_LINES = ("fedvlm_secure/cli/", "node/main.py", "aggregator/main.py")
"""Where the real entropy and the real clock are named; everywhere else they are arguments."""

SEEDED = (*COMMAND_LINES, "node/", "fedvlm_secure/simulate/")
"""Where a seeded numpy Generator is made; elsewhere one is passed in, and only its type is named."""

BANNED_MODULES = {
    "random": (),
    "secrets": COMMAND_LINES,
    "pickle": (),
    "cPickle": (),
    "dill": (),
    "shelve": (),
    "marshal": (),
}
BANNED_CALLS = {
    "os.urandom": COMMAND_LINES,
    "time.time": COMMAND_LINES,
    "time.monotonic": COMMAND_LINES,
    "time.time_ns": COMMAND_LINES,
    "datetime.now": COMMAND_LINES,
    "datetime.datetime.now": COMMAND_LINES,
    "datetime.utcnow": (),
    "uuid.uuid4": (),
    "torch.load": (),
    "yaml.load": (),
    "yaml.unsafe_load": (),
    "yaml.full_load": (),
    "np.load": (),
    "numpy.load": (),
    "joblib.load": (),
    "eval": (),
    "exec": (),
    "torch.save": (),
}
GENERATOR_TYPES = {"Generator", "BitGenerator", "SeedSequence"}
MAKES_GENERATOR = {"default_rng", "PCG64", "Philox"}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def allowed(path: str, places: tuple[str, ...]) -> bool:
    return any(path.startswith(place) for place in places)


def faults(source: str, path: str) -> list[str]:
    """Every banned import, call and construct of one file, as `line: what`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
            found += [
                f"{line}: from {node.module} import {alias.name}"
                for alias in node.names
                if f"{node.module}.{alias.name}" in BANNED_CALLS
                and not allowed(path, BANNED_CALLS[f"{node.module}.{alias.name}"])
            ]
        else:
            names = []
        found += [
            f"{line}: import {name}"
            for name in names
            if name.split(".")[0] in BANNED_MODULES and not allowed(path, BANNED_MODULES[name.split(".")[0]])
        ]
        found += _faults_of_node(node, line, path)
    return found


def _faults_of_node(node: ast.AST, line: int, path: str) -> list[str]:
    if isinstance(node, ast.Assert):
        return [f"{line}: assert (gone under -O; raise an error of the tree)"]
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        return [f"{line}: bare except"]
    if isinstance(node, ast.ExceptHandler) and dotted(node.type or ast.Constant(None)) in (
        "Exception",
        "BaseException",
    ):
        silent = all(isinstance(step, ast.Pass) for step in node.body)
        return [f"{line}: except {dotted(node.type)}: pass"] if silent and node.type is not None else []
    if isinstance(node, ast.Call) and dotted(node.func) in BANNED_CALLS:
        name = dotted(node.func)
        return [] if allowed(path, BANNED_CALLS[name]) else [f"{line}: {name}()"]
    if isinstance(node, ast.Attribute):
        name = dotted(node)
        if name.startswith(("np.random.", "numpy.random.")):
            kind = name.split(".")[2]
            if kind in GENERATOR_TYPES or (kind in MAKES_GENERATOR and allowed(path, SEEDED)):
                return []
            return [f"{line}: {name}"]
    return []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_has_no_banned_call(path: Path) -> None:
    assert faults(path.read_text(), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from random import randint",
        "import pickle",
        "import secrets",
        "import os\nos.urandom(3)",
        "from os import urandom",
        "import time\ntime.time()",
        "from time import time",
        "import numpy as np\nnp.random.seed(1)",
        "import numpy as np\nnp.random.default_rng(1)",
        "import numpy as np\nnp.random.normal(1)",
        "import torch\ntorch.load('x')",
        "import yaml\nyaml.load('x')",
        "def f(x):\n    assert x > 0",
        "try:\n    pass\nexcept:\n    raise",
        "try:\n    pass\nexcept Exception:\n    pass",
        "eval('1')",
    ],
)
def test_the_lint_finds_what_it_bans(source: str) -> None:
    assert faults(source, "fedvlm_secure/secagg/x.py")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import os\nos.urandom(3)", "node/main.py"),
        ("import time\ntime.time()", "aggregator/main.py"),
        ("import numpy as np\nnp.random.default_rng(1)", "fedvlm_secure/simulate/x.py"),
        ("import numpy as np\ndef f(rng: np.random.Generator) -> None: ...", "fedvlm_secure/train/x.py"),
        ("import yaml\nyaml.safe_load('x')", "fedvlm_secure/policy/x.py"),
    ],
)
def test_the_lint_lets_pass_what_has_its_place(source: str, path: str) -> None:
    assert faults(source, path) == []


def test_rooms_import_only_from_below() -> None:
    """The contracts of pyproject.toml, [tool.importlinter]."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(cache_dir=None))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


FORBIDDEN_AT_THE_AGGREGATOR = (
    "torch", "transformers", "peft", "opacus", "datasets", "tokenizers", "tenseal", "node",
    "fedvlm_secure.vlm", "fedvlm_secure.train", "fedvlm_secure.simulate",
    "fedvlm_secure.secagg.masking", "fedvlm_secure.secagg.survivors", "zstandard",
    "fedvlm_secure.he.group_secrets", "fedvlm_secure.he.cipher", "fedvlm_secure.he.tags", "fedvlm_secure.he.encryption",
    "fedvlm_secure.he.epoch_key", "fedvlm_secure.he.verification", "fedvlm_secure.rounds.he_node",
    "fedvlm_secure.rounds.node_run", "fedvlm_secure.rounds.node_round", "fedvlm_secure.rounds.node_setup",
    "fedvlm_secure.rounds.node_memory", "fedvlm_secure.rounds.node_self",
)  # fmt: skip


def loaded_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_aggregators_process_loads_no_model_no_patient_and_no_node_machine() -> None:
    loaded = loaded_by("aggregator.main", "aggregator.service", "fedvlm_secure.rounds.aggregator_run")
    assert "fedvlm_secure.secagg.unmasking" in loaded
    found = [
        module
        for module in sorted(loaded)
        for name in FORBIDDEN_AT_THE_AGGREGATOR
        if f"{module}.".startswith(f"{name}.")
    ]
    assert found == []


def test_a_nodes_machine_loads_nothing_of_the_aggregator() -> None:
    loaded = loaded_by("fedvlm_secure.rounds.node_run")
    found = [
        m for m in sorted(loaded) if m.startswith(("aggregator", "fedvlm_secure.rounds.aggregator")) or "unmask" in m
    ]
    assert found == []


def test_protocol_machines_load_no_network_and_no_model() -> None:
    loaded = loaded_by("fedvlm_secure.rounds.node_run", "fedvlm_secure.rounds.aggregator_run")
    assert not {"grpc", "torch", "transformers", "sqlite3"} & {module.split(".")[0] for module in loaded}


def test_files_stay_readable_in_one_sitting() -> None:
    """About 300 lines a file; a third more is the most."""
    assert [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 400] == []
