"""Times are taken in turns and after a warm-up, and memory is that of the work alone."""

import numpy as np
import pytest
import torch

from benchmarks import timing


def test_works_are_timed_in_turns_after_a_warm_up(monkeypatch):
    monkeypatch.setattr(timing, "SHORT", 0)
    order = []
    table = timing.compare({name: lambda name=name: order.append(name) for name in "ab"}, "test")
    assert order[:6] == ["a", "b", "a", "b", "a", "b"] and order.count("a") == 2 + timing.ROUNDS
    assert list(table.work) == ["a", "b"] and (table["rounds"] == timing.ROUNDS).all()
    assert (table.low <= table.seconds).all() and (table.seconds <= table.high).all()


def test_the_exponent_of_a_power_law():
    sizes = np.array([1.0, 10, 100])
    assert timing.exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)


def hold(megabytes: int) -> timing.Work:
    prepared = torch.ones(50_000_000, dtype=torch.uint8)  # is there before, and does not count
    return lambda: (prepared, torch.ones(megabytes * 1_000_000, dtype=torch.uint8)).__len__()


def test_peak_memory_is_that_of_the_work_alone():
    here = torch.ones(300_000_000, dtype=torch.uint8)  # nor does what the parent holds
    assert timing.peak_memory(hold, 100) == pytest.approx(100, abs=10)
    assert len(here) == 300_000_000
