"""Where work runs: the variable EAS_DEVICE, the processors, and memory that glibc keeps."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from eas import devices


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs the machine seems to have."""

    def make(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    monkeypatch.delenv("EAS_DEVICE", raising=False)
    return make


@pytest.mark.parametrize("said", [None, ""])
def test_the_gpu_is_taken_where_there_is_one(said, gpus, monkeypatch):
    if said is not None:
        monkeypatch.setenv("EAS_DEVICE", said)
    gpus(0)
    assert devices.device() == torch.device("cpu")
    gpus(2)
    assert devices.device() == torch.device("cuda")


def test_the_environment_overrules_it(gpus, monkeypatch):
    gpus(2)
    for name in ("cpu", "cuda", "cuda:1"):
        monkeypatch.setenv("EAS_DEVICE", name)
        assert devices.device() == torch.device(name)


@pytest.mark.parametrize(
    ("name", "count"), [("nonsense", 0), ("meta", 1), ("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cpu:x", 0), (" ", 0)]
)
def test_a_device_that_the_machine_has_not_is_an_error_of_one_line(name, count, gpus, monkeypatch):
    gpus(count)
    monkeypatch.setenv("EAS_DEVICE", name)
    has = "cuda, cpu, cuda:0" if count else "cpu;"
    with pytest.raises(ValueError, match=f"EAS_DEVICE='{name}': this machine has {has}") as caught:
        devices.device()
    assert "\n" not in str(caught.value)


def test_the_processors_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert devices.cpu_count() == 3


@pytest.mark.parametrize(("known", "expected"), [(6, 6), (None, 1)])
def test_where_the_system_cannot_tell_all_processors_count(known, expected, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: known)
    assert devices.cpu_count() == expected


@pytest.mark.parametrize(("found", "expected"), [({"amx_bf16": True}, True), ({"amx_bf16": False}, False), ({}, False)])
def test_matrix_units_are_those_that_torch_finds(found, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert devices.has_amx() is expected


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_the_memory_of_large_tensors_is_used_again():
    """Page faults after the first and the last of 21 tensors of 64 MB: a fresh one costs 16,384 of them.

    Now and then something small takes the beginning of the block that is free, and the next tensor is a fresh one.
    """
    code = (
        "import resource, torch\n"
        "from eas.devices import keep_memory\n"
        "keep_memory()\n"
        "faults = [(torch.ones(2**24), resource.getrusage(0).ru_minflt)[1] for _ in range(21)]\n"
        "print(faults[-1] - faults[0])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(found) < 20 * 16_384 / 2


def test_a_c_library_without_the_option_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    devices.keep_memory()
