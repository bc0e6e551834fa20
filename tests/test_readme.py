"""What the README tells a reader to type is there, and the consortium's ceremony runs as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = {"aggregator": "aggregator", "fedvlm-node": "node", "fedvlm": "fedvlm_secure.cli.main"}
COMMAND = re.compile(r"^(coordinator|hospital) +(?P<line>(?:aggregator|fedvlm-node) .*?)(?: {2,}.*)?$", re.MULTILINE)
SERVICES = ("serve",)


def run(line: str, folder: Path, *extra: str) -> None:
    program, *arguments = shlex.split(line)
    done = subprocess.run(
        [sys.executable, "-m", MODULES[program], *arguments, *extra],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_ceremony_in_the_readme_runs_as_written(tmp_path: Path) -> None:
    lines = [match["line"] for match in COMMAND.finditer(README)]
    assert [line.split()[1] for line in lines if line.split()[1] in SERVICES] == ["serve", "serve"]
    (tmp_path / "fedavg.yaml").write_bytes((ROOT / "policies" / "fedavg.yaml").read_bytes())
    for line in lines:
        command = line.split()[1]
        if command in SERVICES:
            continue
        run(line, tmp_path, *(["--yes"] if command in ("install", "approve") else []))
        if command == "init" and line.startswith("fedvlm-node"):
            for other in ("hospital-b", "hospital-c"):
                run(line.replace("hospital-a", other) + f" --state {other}-state", tmp_path)
        if command == "admit":
            [bundle] = (tmp_path / "aggregator-home").rglob("hospital-a.cert.pem")
            (tmp_path / bundle.name).write_bytes(bundle.read_bytes())  # handed back
            for other in ("hospital-b", "hospital-c"):
                run(line.replace("hospital-a", other), tmp_path)
    assert (tmp_path / "roster.toml").read_text(encoding="utf-8").count("hospital-") >= 3


def test_every_make_target_in_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    pages = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))]
    named = {target for page in pages for target in re.findall(r"(?:^|`)make ([a-z-]+)", page, re.MULTILINE)}
    assert {"demo", "test"} <= named
    assert named <= targets


def test_every_local_link_in_the_documentation_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "proto").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
