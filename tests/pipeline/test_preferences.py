"""The split-half and the swap test, on planted preferences of superclasses for archs."""

import math

import pandas as pd
import pytest
import torch

from pipeline.report import preferences


def simulated(interaction, archs=200, superclasses=6, images=1200):
    """`own`, labels and parent of archs with a main effect of 5 points and a planted interaction, in points."""
    rng = torch.Generator().manual_seed(0)
    parent = torch.arange(superclasses).repeat_interleave(3)
    labels = torch.randint(len(parent), (images,), generator=rng)
    main = torch.linspace(-7, 7, archs)[:, None]
    planted = interaction * torch.randn(archs, superclasses, generator=rng)
    chance = 70 + main + planted
    own = torch.rand(archs, images, generator=rng) * 100 < chance[:, parent[labels]]
    return own, labels, parent


def test_halves_divide_every_class_and_average_to_the_whole():
    own, labels, parent = simulated(0, archs=3, images=400)
    accuracy = preferences.half_accuracy(own, labels, parent, repeats=5, seed=1)
    assert accuracy.shape == (5, 2, 3, 6)
    assert torch.equal(accuracy, preferences.half_accuracy(own, labels, parent, repeats=5, seed=1))
    everywhere_right = preferences.half_accuracy(own | True, labels, parent, repeats=2)
    assert (everywhere_right == 100).all()
    # One class right: on both halves it is half of its images, up to the odd one.
    one_class = preferences.half_accuracy((labels == 0)[None], labels, parent, repeats=4)[..., 0, 0] / 100
    share = (labels == 0).sum() / (parent[labels] == 0).sum()
    assert (one_class - share).abs().max() < 1 / 60
    with pytest.raises(ValueError, match="two images"):
        preferences.half_accuracy(own[:, :1], labels[:1], parent)


def test_effects_add_up():
    accuracy = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    arch, superclass, interaction = preferences.effects(accuracy)
    rebuilt = accuracy.mean((-2, -1), keepdim=True) + arch + superclass + interaction
    torch.testing.assert_close(rebuilt, accuracy)
    torch.testing.assert_close(interaction.sum(-1), torch.zeros(2, 5, dtype=torch.float64))
    additive = torch.tensor([[1.0], [2.0]]) + torch.tensor([10.0, 20.0, 30.0])
    assert preferences.effects(additive)[2].abs().max() < 1e-5


def test_split_half_recovers_a_planted_interaction():
    found = preferences.split_half(*simulated(interaction=6, images=2400), repeats=10).mean()
    # A row's mean takes a sixth of what was planted; one half's noise has a variance of about 0.2 / 200 images.
    shared, noise = 36 * 5 / 6, 10
    assert found.interaction_variance == pytest.approx(shared, rel=0.15)
    assert found.interaction_correlation == pytest.approx(shared / (shared + noise * 5 / 6), abs=0.06)
    assert found.gain > 5


def test_split_half_finds_nothing_where_there_is_nothing():
    found = preferences.split_half(*simulated(interaction=0), repeats=10).mean()
    assert abs(found.interaction_correlation) < 0.08 and abs(found.interaction_variance) < 1.5
    assert found.arch_correlation > 0.7
    assert math.sqrt(found.arch_variance) == pytest.approx(14 / math.sqrt(12), rel=0.1)  # uniform from -7 to 7
    assert found.gain < 0.5


def test_the_gain_of_choosing_on_few_images_is_a_lower_bound_and_the_interaction_has_the_upper_one():
    """A planted interaction of two points is worth several to an oracle; chosen on 25 images, it is worth less."""
    own, labels, parent = simulated(interaction=2, superclasses=20, images=1000)
    found = preferences.split_half(own, labels, parent, repeats=10)
    planted = 2 * torch.randn(200, 20, generator=torch.Generator().manual_seed(1))
    oracle = (planted.amax(0) - planted.mean(0)).mean()
    assert found.gain.mean() < oracle / 2
    halves = [found.assign(supernet="dropout", seed=seed) for seed in (0, 1)]
    # In these the seeds agree: the bound is the root of the mean variance itself.
    (row,) = preferences.interaction_sd_upper(pd.concat(halves)).itertuples()
    assert row.points == pytest.approx(math.sqrt(max(0, found.interaction_variance.mean())), abs=1e-6)


def test_the_upper_bound_of_the_interaction_is_worked_out_by_hand():
    halves = pd.DataFrame({"supernet": "dropout", "seed": [0, 1, 2], "interaction_variance": [1.0, 2.0, 3.0]})
    below = pd.DataFrame({"supernet": "plain", "seed": [0, 1, 2], "interaction_variance": [-1.0, -1.0, -1.0]})
    bounds = preferences.interaction_sd_upper(pd.concat([halves, below])).set_index("supernet").points
    assert bounds["dropout"] == pytest.approx(math.sqrt(2 + 4.302653 / math.sqrt(3)), abs=1e-6)
    assert bounds["plain"] == 0  # a variance that came out negative
    assert math.isnan(preferences.interaction_sd_upper(halves[:1]).points.item())  # one seed bounds nothing


def test_gain_shares_ties():
    chosen_on = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    judged_on = torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, 8.0]])
    # By superclass: (4 + 0) / 2 and (2 + 8) / 2, mean 3.5. One for all: the second, (0 + 2) / 2.
    assert preferences.gain_of_choosing(chosen_on, judged_on).item() == pytest.approx(2.5)


def test_swap_cost():
    table = [(a, b, 80.0 if a == b else 77.0 + seed, seed) for seed in (0, 1) for a in "xyz" for b in "xyz"]
    swap = pd.DataFrame(table, columns=["arch_of", "used_for", "top1", "seed"])
    row = preferences.swap_cost(swap.assign(supernet="dropout", budget_madds=1)).iloc[0]
    assert row["mean"] == pytest.approx(2.5) and row["high"] == pytest.approx(2.5 + 12.706205 * 0.5)
