"""Preflight and doctor: what they find, and that they send nothing."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from fedvlm_secure.dp import discrete_gaussian
from fedvlm_secure.errors import ModelError, PolicyError
from fedvlm_secure.he import cipher
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.node_config import NodeConfig, load_node_config
from fedvlm_secure.simulate.memory import ShakeEntropy
from node import hospital
from node.doctor import examine
from node.doctor_machine import look_at_clock, look_at_device, look_at_step
from node.doctor_network import look_at_proxy, look_at_tls
from node.finding import Finding
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from node.main import app
from node.preflight import run_preflight
from tests.support.consortium import Consortium, ScriptedMachine, SteadyClock, make_consortium, serving

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return make_consortium(tmp_path, "coast", "harbour", "valley")


@pytest.fixture
def config_path(tmp_path: Path, consortium: Consortium) -> Path:
    state = consortium.keystores["coast"].state
    path = tmp_path / "node.yaml"
    path.write_text(
        f"node: coast\nstate: {state}\naggregator: 127.0.0.1:1\npopulation: p\n"
        "data: {phantoms: {site: coast, seed: 1, patients: 60}}\n"
    )
    return path


def found(
    config: NodeConfig, now: datetime, policy: Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Finding]:
    loaded = None if policy is None else load_policy(policy)
    looks = examine(loaded, config, now, environment=environment or {}, entropy=ShakeEntropy(0, "doctor"))
    return {finding.name: finding for finding in looks}


def small(folder: Path, base: str = "dp_fedavg") -> Path:
    expected = {"coast": 60, "harbour": 600, "valley": 600}
    derive(POLICIES / f"{base}.yaml", {"name": "small", "privacy.expected_patients": expected}, folder / "small.yaml")
    return folder / "small.yaml"


def test_doctor_finds_a_healthy_hospital_healthy_but_for_the_closed_port(config_path: Path) -> None:
    findings = found(load_node_config(config_path), datetime.now(UTC), POLICIES / "fedavg.yaml")
    verdicts = {name: finding.verdict for name, finding in findings.items()}
    assert verdicts.pop("aggregator") == "wrong" and verdicts.pop("tls") == "warning"
    assert verdicts.pop("disk") in ("ok", "warning") and verdicts.pop("device") in ("ok", "warning")
    healthy = ("certificate", "clock", "roster", "proxy", "base", "data", "budget", "step")
    assert verdicts == dict.fromkeys(healthy, "ok")
    assert "of 60 patients" in findings["data"].text


@pytest.mark.parametrize("installed", [True, False])
def test_doctor_and_preflight_say_when_the_homomorphic_library_is_missing(
    config_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    def missing() -> None:
        raise ModelError("HE_LIBRARY_MISSING", "a package is not installed: tenseal", "pip install 'fedvlm-secure[he]'")

    if not installed:
        monkeypatch.setattr(cipher, "_libraries", missing)
    config = load_node_config(config_path)
    finding = found(config, datetime.now(UTC), POLICIES / "bfv_fedavg.yaml")["library"]
    assert finding.verdict == ("ok" if installed else "wrong")
    assert installed or ("HE_LIBRARY_MISSING" in finding.text and "fedvlm-secure[he]" in finding.hint)
    if not installed:
        policy = load_policy(POLICIES / "bfv_fedavg.yaml")
        with pytest.raises(ModelError, match="tenseal"):
            run_preflight(policy, config, clock=SteadyClock(), entropy=ShakeEntropy(0, "preflight"))


def test_doctor_meets_the_pinned_key_at_the_real_server(
    config_path: Path, consortium: Consortium, tmp_path: Path
) -> None:
    with serving(consortium, tmp_path / "server", ScriptedMachine()) as server:
        config = load_node_config(config_path).model_copy(update={"aggregator": server.address})
        findings = found(config, datetime.now(UTC))
    assert findings["aggregator"].verdict == findings["tls"].verdict == "ok"
    assert "TLSv1.3" in findings["tls"].text and "days" in findings["tls"].text


@contextmanager
def inspecting_proxy(folder: Path, issuer: str) -> Iterator[str]:
    """A TLS server on loopback with a certificate that some network department made for this address."""
    key = rsa.generate_private_key(65537, 2048)
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]), datetime.now(UTC)
    draft = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    draft = draft.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))
    certificate = draft.sign(key, hashes.SHA256())
    pem = folder / "proxy.pem"
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(plain + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            raw, _ = server.accept()
            with context.wrap_socket(raw, server_side=True) as secure:
                secure.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)


def test_doctor_names_who_inspects_tls(consortium: Consortium, tmp_path: Path) -> None:
    with inspecting_proxy(tmp_path, "Clinic IT Inspection CA") as address:
        finding = look_at_tls(address, consortium.roster, datetime.now(UTC))
    assert finding.verdict == "wrong" and "Clinic IT Inspection CA" in finding.text
    assert consortium.roster.aggregator.spki_sha256.hex()[:16] in finding.text and "inspects TLS" in finding.hint


def test_doctor_is_not_fooled_by_the_aggregators_certificate_of_another_consortium(
    consortium: Consortium, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_consortium(tmp_path / "other", "coast", "harbour", "valley")
    with serving(other, tmp_path / "server", ScriptedMachine()) as server:
        assert look_at_tls(server.address, consortium.roster, datetime.now(UTC)).verdict == "wrong"
        assert look_at_tls(server.address, other.roster, datetime.now(UTC)).verdict == "ok"
        late = look_at_tls(server.address, other.roster, datetime.now(UTC) + timedelta(days=4000))
    assert late.verdict == "wrong" and "clock" in late.hint


def test_doctor_says_where_something_answers_without_tls(consortium: Consortium) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            raw, _ = server.accept()
            raw.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            raw.close()

        threading.Thread(target=answer, daemon=True).start()
        finding = look_at_tls(f"127.0.0.1:{server.getsockname()[1]}", consortium.roster, datetime.now(UTC))
    assert finding.verdict == "wrong" and "no TLS handshake" in finding.text


@pytest.mark.parametrize(
    ("environment", "verdict", "text"),
    [
        ({}, "ok", "no variable"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "ok", "no variable"),  # gRPC reads lower case alone
        ({"https_proxy": "http://proxy:3128"}, "warning", "https_proxy sends gRPC through proxy:3128"),
        ({"grpc_proxy": "http://a:1", "https_proxy": "http://b:2"}, "warning", "grpc_proxy sends gRPC through a:1"),
        ({"http_proxy": "http://us:er@proxy:3128"}, "warning", "through proxy:3128"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "localhost, example.org"}, "ok", "exempt"),
        ({"https_proxy": "http://proxy:3128", "no_grpc_proxy": "x.org", "no_proxy": "example.org"}, "warning", "sends"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": ",, other.org"}, "warning", "sends"),
        ({"https_proxy": "::::"}, "warning", "unreadable"),
    ],
)
def test_doctor_sees_the_proxy_that_grpc_would_take(environment: dict[str, str], verdict: str, text: str) -> None:
    finding = look_at_proxy("fed.example.org:7443", environment)
    assert finding.verdict == verdict and text in finding.text
    assert "us:er" not in finding.text and "er@" not in finding.text


@pytest.mark.parametrize(("exempt", "verdict"), [("10.0.0.0/8", "ok"), ("10.1.2.3", "ok"), ("10.2.0.0/16", "warning")])
def test_an_exempt_network_covers_its_addresses(exempt: str, verdict: str) -> None:
    environment = {"https_proxy": "http://proxy:3128", "no_proxy": exempt}
    assert look_at_proxy("10.1.2.3:7443", environment).verdict == verdict


@pytest.mark.parametrize(("days", "verdict", "text"), [(-400, "wrong", "this clock says"), (4000, "wrong", "expired")])
def test_doctor_sees_a_wrong_clock_and_an_expired_certificate(
    config_path: Path, days: int, verdict: str, text: str
) -> None:
    finding = found(load_node_config(config_path), datetime.now(UTC) + timedelta(days=days))["certificate"]
    assert finding.verdict == verdict and text in finding.text and finding.hint


def test_doctor_sees_a_clock_that_was_set_back(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    folder = tmp_path / "runs" / "ab"
    folder.mkdir(parents=True)
    record = folder / "audit.jsonl"
    record.write_text("{}")
    os.utime(record, (now.timestamp() + 200, now.timestamp() + 200))
    assert look_at_clock(tmp_path, now).verdict == "ok"
    os.utime(record, (now.timestamp() + 7200, now.timestamp() + 7200))
    finding = look_at_clock(tmp_path, now)
    assert finding.verdict == "wrong" and "7200 seconds" in finding.text


@pytest.mark.parametrize(
    ("asked", "seen", "verdict", "used"),
    [
        ("cpu", 0, "ok", "cpu"),
        ("cpu", 2, "warning", "cpu"),
        ("cuda", 1, "ok", "cuda:0"),
        ("cuda:1", 2, "ok", "cuda:1"),
        ("auto", 0, "ok", "cpu"),
        ("auto", 1, "ok", "cuda:0"),
    ],
)
def test_doctor_says_which_device_trains_and_what_it_has(
    monkeypatch: pytest.MonkeyPatch, asked: str, seen: int, verdict: str, used: str
) -> None:
    pretend_cards(monkeypatch, seen)
    finding = look_at_device(asked)
    assert finding.verdict == verdict
    assert f"sees {seen} CUDA devices" in finding.text and f"trains on {used}" in finding.text
    assert ("Pretended, 3.0 of 80.0 GiB free" in finding.text) == used.startswith("cuda")


def pretend_cards(monkeypatch: pytest.MonkeyPatch, seen: int) -> None:
    import torch

    from fedvlm_secure.vlm import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Pretended")
    monkeypatch.setattr(device, "_try", lambda *_: None)


def test_a_device_that_is_not_there_is_found_before_any_data_is_read(
    monkeypatch: pytest.MonkeyPatch, config_path: Path
) -> None:
    pretend_cards(monkeypatch, 1)
    monkeypatch.setattr(hospital, "load_data", lambda *_: pytest.fail("data was read"))
    config = load_node_config(config_path).model_copy(update={"device": "cuda:1"})
    policy = load_policy(POLICIES / "fedavg.yaml")
    with pytest.raises(PolicyError) as caught:
        run_preflight(policy, config, clock=SteadyClock(), entropy=ShakeEntropy(0, "preflight"))
    assert caught.value.code == "DEVICE" and "device: cpu" in caught.value.hint
    with pytest.raises(PolicyError) as caught:
        hospital.build_training(policy, config)  # what `serve` begins with
    assert caught.value.code == "DEVICE"
    findings = found(config, datetime.now(UTC))
    assert findings["device"].verdict == "wrong" and "[DEVICE]" in findings["device"].text


def test_doctor_goes_on_after_what_is_broken(config_path: Path) -> None:
    config = load_node_config(config_path)
    (config.state / "roster.toml").unlink()
    findings = found(config, datetime.now(UTC))
    assert findings["roster"].verdict == findings["tls"].verdict == "wrong"
    assert findings["certificate"].verdict == "ok"


def test_doctor_puts_the_run_beside_the_budget(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.doctor.look_at_step", lambda policy, config, entropy: Finding("step", "ok", "-"))
    config, policy = load_node_config(config_path), load_policy(small(tmp_path))
    looks = examine(policy, config, datetime.now(UTC), environment={}, entropy=ShakeEntropy(0, "doctor"))
    budget = {finding.name: finding for finding in looks}["budget"]
    assert budget.verdict == "wrong" and "LEDGER_MISSING" in budget.text
    ledger = Ledger.create(ledger_paths(config.state), ShakeEntropy(0, "ledger"), lambda: 1_800_000_000)
    ledger.add_population("p", delta=1e-5, epsilon_limit=3.0)
    assert found(config, datetime.now(UTC), tmp_path / "small.yaml")["budget"].verdict == "warning"
    ledger.set_limit("p", 9.0)
    ok = found(config, datetime.now(UTC), tmp_path / "small.yaml")["budget"]
    assert ok.verdict == "ok" and "9.00 of 9 are left to p" in ok.text


def step(config_path: Path, folder: Path, base: str) -> Finding:
    config = load_node_config(config_path)
    return look_at_step(load_policy(small(folder, base)), config, ShakeEntropy(0, "doctor"))


BOTH = pytest.mark.parametrize("base", ["dp_fedavg", "dp_distributed"])


@BOTH
def test_a_private_step_shows_its_noise_without_any_patient(config_path: Path, tmp_path: Path, base: str) -> None:
    finding = step(config_path, tmp_path, base)
    moved = float(finding.text.split("noise alone moves ")[1].split("%")[0])
    assert finding.verdict == "ok" and moved > 99
    spread = float(finding.text.split("spread is ")[1].split()[0])
    assert 0.9 < spread < 1.1


@BOTH
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_step_with_too_little_noise_or_none_is_found_out(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, base: str
) -> None:
    real = discrete_gaussian.DiscreteGaussian.add_to

    def less(self: Any, vector: Any, key: Any) -> None:
        noise = np.zeros_like(vector)
        real(self, noise, key)
        vector += (noise * share).astype(np.int64)

    monkeypatch.setattr(discrete_gaussian.DiscreteGaussian, "add_to", less)
    config = load_node_config(config_path)
    findings = found(config, datetime.now(UTC), small(tmp_path, base))
    assert findings["step"].verdict == "wrong"


def test_program_output_and_exit_code_say_that_something_is_wrong(config_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--config", str(config_path), "--json"])
    fields = json.loads(result.stdout)
    assert result.exit_code == 1 and fields["node"] == "coast"
    assert {"name", "verdict", "text", "hint"} == set(fields["findings"][0])
    result = CliRunner().invoke(app, ["doctor", "--config", str(config_path)])
    assert result.exit_code == 1 and "wrong   aggregator:" in result.stdout and "-> " in result.stdout


def test_preflight_counts_and_steps_without_sending_or_charging(config_path: Path, tmp_path: Path) -> None:
    policy = small(tmp_path)
    command = ["preflight", "--config", str(config_path), "--policy", str(policy), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    fields = json.loads(result.stdout)
    assert fields["train_patients"] + fields["test_patients"] == 60 and fields["expected_patients"] == 60
    assert fields["step_norm"] > 0 and 7.9 < fields["epsilon"] <= 8
    state = load_node_config(config_path).state
    assert not (state / "ledger").exists() and not (state / "journal").exists()
    assert fields["noise_ratio"] > 10 > fields["epsilon"]  # sixty patients alone drown; the cohort does not


def test_preflight_tries_a_sum_of_gradients_where_noise_is_shared(config_path: Path, tmp_path: Path) -> None:
    policy = small(tmp_path, "dp_distributed")
    result = CliRunner().invoke(app, ["preflight", "--config", str(config_path), "--policy", str(policy), "--json"])
    assert result.exit_code == 0, result.stderr
    fields = json.loads(result.stdout)
    assert 0 < fields["step_norm"] < 60 / 252  # every patient of this hospital, each of norm 1 at most, over 252
    assert fields["upload_bytes"] == 4 * fields["trained_values"] and 7.9 < fields["epsilon"] <= 8
