"""A device that node.yaml asks for is found and tried, or refused with the reason; its own failures have a name."""

from __future__ import annotations

import pytest
import torch

from fedvlm_secure.errors import ModelError, PolicyError
from fedvlm_secure.vlm import device
from fedvlm_secure.vlm.device import cuda_devices, device_faults, free_and_whole_bytes, prepare_device

CUDA = torch.device("cuda", 0)
FULL = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 11.00 MiB is "
    "free. Process 4711 has 78.00 GiB memory in use. See documentation for PYTORCH_CUDA_ALLOC_CONF"
)


def cards(monkeypatch: pytest.MonkeyPatch, seen: int, *, work: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    if work:
        monkeypatch.setattr(device, "_try", lambda *_: None)


@pytest.mark.parametrize(
    ("asked", "seen", "wanted"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_what_is_asked_for_is_found(monkeypatch: pytest.MonkeyPatch, asked: str, seen: int, wanted: str) -> None:
    cards(monkeypatch, seen)
    assert str(prepare_device(asked)) == wanted
    assert cuda_devices() == seen


@pytest.mark.parametrize(("asked", "seen"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:10", 2)])
def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str, seen: int) -> None:
    cards(monkeypatch, seen)
    with pytest.raises(PolicyError) as caught:
        prepare_device(asked)
    assert caught.value.code == "DEVICE"
    assert asked in caught.value.cause and f"sees {seen} CUDA devices" in caught.value.cause
    assert "device: cpu" in caught.value.hint


def test_a_torch_without_cuda_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, 0)
    for built, named in ((None, True), ("12.8", False)):
        monkeypatch.setattr(torch.version, "cuda", built)
        with pytest.raises(PolicyError) as caught:
            prepare_device("cuda")
        assert ("built without CUDA" in caught.value.cause) is named


def test_mps_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(PolicyError) as caught:
        prepare_device("mps")
    assert caught.value.code == "DEVICE" and "mps" in caught.value.cause


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch that cannot compute on CUDA")
@pytest.mark.parametrize("asked", ["cuda", "auto"])
def test_a_card_that_is_seen_and_cannot_compute_is_refused_and_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    cards(monkeypatch, 1, work=False)
    with pytest.raises(PolicyError) as caught:
        prepare_device(asked)
    assert caught.value.code == "DEVICE" and "does not work" in caught.value.cause


def test_a_device_that_computes_a_wrong_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    device._try(torch.device("cpu"), "cpu")
    real = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda *given: 1.001 * real(*given))
    with pytest.raises(PolicyError) as caught:
        device._try(torch.device("cpu"), "cuda")
    assert caught.value.code == "DEVICE" and "wrong" in caught.value.cause


def test_convolutions_on_a_card_are_held_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    prepare_device("cuda")
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_memory_that_runs_out_names_what_to_lower_and_no_other_process() -> None:
    with pytest.raises(ModelError) as caught, device_faults(CUDA):
        raise torch.OutOfMemoryError(FULL)
    assert caught.value.code == "DEVICE_MEMORY" and "20.00 MiB" in caught.value.cause
    assert "microbatch" in caught.value.hint
    assert "4711" not in caught.value.cause and "PYTORCH" not in caught.value.cause


@pytest.mark.parametrize(
    "fault",
    [
        NotImplementedError("The operator 'aten::some' is not currently implemented for the MPS device.\nMore"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered\nMore"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)\nMore"),
    ],
)
def test_a_fault_of_the_device_is_one_line(fault: Exception) -> None:
    with pytest.raises(ModelError) as caught, device_faults(CUDA):
        raise fault
    assert caught.value.code == "DEVICE_FAILED"
    assert "More" not in caught.value.cause and "cuda:0" in caught.value.cause


@pytest.mark.parametrize("fault", [ValueError("ours"), RuntimeError("ours"), ModelError("ZERO_UPDATE", "as if")])
def test_other_errors_keep_their_own_name(fault: Exception) -> None:
    with pytest.raises(type(fault)) as caught, device_faults(CUDA):
        raise fault
    assert caught.value is fault


def test_what_the_cpu_cannot_do_is_no_fault_of_a_device() -> None:
    with pytest.raises(NotImplementedError), device_faults(torch.device("cpu")):
        raise NotImplementedError("ours")
    assert free_and_whole_bytes(torch.device("cpu")) is None
