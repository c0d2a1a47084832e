"""The measurement of training: its parts are plausible, and what was measured stays."""

import subprocess
import sys

import pytest
import torch

from eas import devices
from pipeline import steps, throughput
from pipeline.store import Workspace


def test_training_takes_a_share_of_the_machine_and_the_parts_add_up(finished, supernet):
    (found,) = steps.records(finished, "throughput")
    assert 0 < found["tflops"] < found["matrix_tflops"] and found["bandwidth_gb"] > 0
    assert sum(found["shares"].values()) == pytest.approx(100)
    assert list(found["shares"]) == list(throughput.GROUPS) and "no GPU" in found["machine"]
    convolutions = found["shares"]["convolutions, backward"], found["shares"]["convolutions, forward"]
    assert all(5 < share < 80 for share in convolutions) and found["shares"]["batch norm"] > 1
    # Three subnets a step, none above the largest: between a third and all of three times its arithmetic.
    most = throughput.FLOPS * 3 * supernet.space.madds(supernet.space.largest, 160).item()
    assert 0.3 < found["tflops"] * 1e12 / found["images_per_second"] / most < 1


def test_the_arithmetic_of_archs_is_that_of_the_space_and_what_they_share_counts_once(supernet):
    space = supernet.space
    archs = torch.cat([space.sample(5, torch.Generator().manual_seed(0)), space.largest[None]])
    alone, moved = throughput.arithmetic(supernet, archs, together=False)
    assert alone == space.madds(archs, 160).sum()
    together, moved_together = throughput.arithmetic(supernet, archs, together=True)
    pixels, (width, *_) = space.image_size**2, space.widths
    stem = 9 * space.in_channels * width * pixels
    inner = [9 * width * supernet.first_inner(arch) * pixels for arch in archs]
    assert alone - together == 5 * stem + sum(inner) - max(inner) and moved_together < moved
    assert not any(module._forward_hooks for module in supernet.modules())


def test_what_was_measured_or_published_is_not_measured_again(micro, tmp_path, monkeypatch, inline):
    monkeypatch.setattr(throughput, "fastest", lambda *args: 1 / 0)
    step = steps.STEPS["throughput"]
    steps.run_step(micro, step)
    elsewhere = Workspace(micro.study, tmp_path, micro.folder)
    steps.run_step(elsewhere, step)
    assert steps.records(elsewhere, "throughput") == steps.records(micro, "throughput")
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "dataset.safetensors").symlink_to(micro.dataset_path)
    with pytest.raises(ZeroDivisionError):
        steps.run_step(Workspace(micro.study, tmp_path / "fresh"), step)


def test_the_fastest_round_counts_after_a_warm_up(monkeypatch):
    clock = iter([0, 9, 10, 15, 20, 22, 30, 33])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    calls = []
    assert throughput.fastest(lambda: calls.append(1), 3) == 2 and len(calls) == 4


def test_a_convolution_is_a_convolution():
    images, weight = torch.randn(32, 64, 32, 32), torch.randn(64, 64, 3, 3)  # long beside what a busy machine adds
    found = throughput.shares(lambda: torch.conv2d(images, weight), devices.device())
    assert found["convolutions, forward"] > 95
    found = throughput.shares(lambda: torch.randn(1000, 1000).exp(), devices.device())
    assert found["rest"] > 95


def test_the_profiler_says_nothing(tmp_path):
    code = (
        "import torch; from pipeline.throughput import shares; shares(lambda: torch.ones(2).exp(), torch.device('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == done.stderr == ""
