"""Sentences over figures: each says what its numbers say."""

import numpy as np
import pandas as pd

from pipeline.report import claims


def test_sizes_of_superclasses():
    assert claims.sizes(np.array([5, 5]), np.array([3000, 3000])) == "Every superclass has 5 classes and 3,000 images"
    assert claims.sizes(np.array([4, 9]), np.array([80, 80])) == "A superclass has 4 to 9 classes and 80 images"


def test_the_best_setting_of_dropout_is_held_against_none():
    assert claims.settings({"none": 70.0}) == "The subnets of one supernet reach 70.0 % in the mean"
    assert claims.settings({"none": 70.0, "own-0.5": 69.5}) == "Dropout own-0.5 changes the mean by -0.5 points"
    assert "changes seed 3's mean by -0.5" in claims.settings({"none": 70.0, "own-0.5": 69.5}, {3})
    several = claims.settings({"own-0.5": 69.5, "none": 70.0, "batch-0.1": 71.25}, {0, 1})
    assert several == "The best of 2 dropouts, batch-0.1, changes the mean by +1.2 points"


def test_losses_fall():
    assert claims.fall_done(pd.Series([1.0, 0.5, 0.2, 0.05, 0.0])) == 0.8
    assert claims.losses({"a": 0.125, "b": 0.5}) == "90 % of a loss's fall is over after 12 to 50 % of the steps"


def test_archs_that_differ():
    assert claims.archs(5, 5) == "All 5 archs differ"
    assert claims.archs(20, 9) == "Among 20 archs there are 9 different ones"


def test_who_is_ahead():
    assert claims.leader({"a": -0.2, "b": 3.04}) == "Most accurate: b, +3.0 points over OFA's way"
    gains = pd.DataFrame({"weights": ["own", "own", "shared", "shared"], "mean": [1.0, 2.0, -1.0, 0.5]})
    assert claims.gains(gains) == "Ahead of OFA's way, of 2 superclasses: own in 2, shared in 1"
    kinds = pd.DataFrame({"kind": list("xxyyz"), "name": list("ababa"), "mean": [1.0, 2.0, 0.0, 1.0, 5.0]})
    assert claims.kinds(kinds) == "Best on 2 of 3 kinds of sets: b"


def test_spreads_errors_times_and_shares():
    table = pd.DataFrame([[90.0, 92.0], [50.0, 53.0]])
    assert claims.spread(table) == "Superclasses differ by 40 points, budgets by 2.5"
    assert claims.expected(pd.Series([-1.0, 2.0])) == "What a network will reach is told to 1.5 points in the mean"
    assert claims.times({"generator": 1.0, "slow": 3174.0}) == "slow takes 3,200 times as long as the generator"
    parts = {"norms": 29.0, "convolutions": 35.0, "rest": 6.0}
    assert claims.shares(parts) == "64 % of a training step are convolutions and norms"
    assert claims.halves(0.888, -0.02) == "Correlation of the halves: arch 0.89, arch x superclass -0.02"
