"""Superclass dropout: which classes count, how often, and a loss that sees nothing else."""

import pytest
import torch
import torch.nn.functional as F

from eas.dropout import FixedClasses, SuperclassDropout, mask_logits, masked_cross_entropy, soft_targets
from eas.recipes import NO_DROPOUT, Dropout

PARENT = torch.tensor([0, 0, 1, 2, 2, 2, 2, 3, 3, 3])  # four superclasses of 2, 1, 4 and 3 classes
CLASSES, SUPERCLASSES = len(PARENT), 4
VARIANTS = ["none", "batch", "own", "sample"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_labels(count, seed=0):
    return torch.randint(CLASSES, (count,), generator=seeded(seed))


def draws(variant, rate, labels, times, seed=0):
    """(class mask, weight) of several batches in a row, [times, n, classes] and [times, n]."""
    dropout, rng = SuperclassDropout(PARENT, Dropout(variant=variant, rate=rate)), seeded(seed)
    mask, weight = zip(*(dropout(labels, rng, 0.0) for _ in range(times)), strict=True)
    return torch.stack(mask), torch.stack(weight)


def case(variant="sample", rate=0.6, count=64, seed=0):
    """Logits, labels, class mask and weight of one batch."""
    labels = random_labels(count, seed)
    mask, weight = SuperclassDropout(PARENT, Dropout(variant=variant, rate=rate))(labels, seeded(seed), 0.0)
    return torch.randn(count, CLASSES, generator=seeded(seed + 1)) * 3, labels, mask, weight


# -------------------------------------------------------------------- which classes count


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.95])
def test_a_sample_that_counts_has_its_own_superclass_and_superclasses_count_whole(variant, rate):
    labels = random_labels(40)
    mask, weight = draws(variant, rate, labels, 50)
    assert mask.shape == (50, 40, CLASSES) and mask.dtype == torch.bool
    assert weight.shape == (50, 40) and set(weight.unique().tolist()) <= {0.0, 1.0}
    own = PARENT[labels][:, None] == PARENT
    assert (mask | ~own)[weight == 1].all()
    for superclass in range(SUPERCLASSES):
        members = mask[..., superclass == PARENT]
        assert torch.equal(members.all(-1), members.any(-1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_at_rate_zero_all_classes_count(variant):
    mask, weight = draws(variant, 0.0, random_labels(30), 20)
    assert mask.all() and (weight == 1).all()


def test_without_dropout_all_classes_count_whatever_the_rate():
    mask, weight = draws("none", 0.9, random_labels(30), 20)
    assert mask.all() and (weight == 1).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_own_draws_once_a_batch_at_its_rate(rate):
    labels = random_labels(30)
    mask, weight = draws("own", rate, labels, 2000)
    own = PARENT[labels][:, None] == PARENT
    everything, own_only = mask.all((1, 2)), (mask == own).all((1, 2))
    assert (everything ^ own_only).all() and (weight == 1).all()
    assert own_only.float().mean() == pytest.approx(rate, abs=0.04)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_sample_drops_each_other_superclass_of_each_sample_at_its_rate(rate):
    labels = random_labels(200)
    mask, weight = draws("sample", rate, labels, 60)
    assert (weight == 1).all()
    first = torch.tensor([0, 2, 3, 7])  # of every superclass
    dropped = ~mask[..., first]
    for superclass in range(SUPERCLASSES):
        others = PARENT[labels] != superclass
        assert dropped[:, others, superclass].float().mean() == pytest.approx(rate, abs=0.03)
    # Samples of a batch and superclasses of a sample are drawn by themselves: products of rates for pairs.
    pair = labels.new_tensor([(PARENT[labels] == 0).nonzero()[i, 0] for i in range(2)])
    assert (dropped[:, pair[0], 2] & dropped[:, pair[1], 2]).float().mean() == pytest.approx(rate**2, abs=0.15)
    both = dropped[:, PARENT[labels] == 0][..., 2:].all(-1)
    assert both.float().mean() == pytest.approx(rate**2, abs=0.04)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_batch_draws_each_superclass_once_a_batch_at_its_rate(rate):
    labels = torch.tensor([4, 0, 2, 9, 5, 1, 8, 2])  # the first one's superclass is 2
    mask, weight = draws("batch", rate, labels, 3000)
    assert (mask == mask[:, :1]).all()
    for member in (0, 2, 7):  # of the other superclasses
        assert (~mask[:, 0, member]).float().mean() == pytest.approx(rate, abs=0.04)
    both = ~mask[:, 0, 0] & ~mask[:, 0, 7]
    assert both.float().mean() == pytest.approx(rate**2, abs=0.04)
    assert torch.equal(weight == 1, mask[:, 0][:, labels])  # a sample counts where its superclass counts


@pytest.mark.parametrize("labels", [torch.tensor([2] * 5), random_labels(20), torch.tensor([9])])
def test_batch_never_drops_all_samples(labels):
    mask, weight = draws("batch", 0.99, labels, 300)
    assert (weight.sum(1) >= 1).all() and (weight[:, 0] == 1).all() and mask.any(-1).all()
    if len(labels) == 20:
        assert (weight == 0).any()


@pytest.mark.parametrize("variant", ["batch", "own", "sample"])
def test_draws_depend_on_the_generator_alone(variant):
    labels = random_labels(30)
    first = draws(variant, 0.5, labels, 20)
    torch.manual_seed(99)
    assert all(map(torch.equal, first, draws(variant, 0.5, labels, 20)))
    assert not torch.equal(first[0], draws(variant, 0.5, labels, 20, seed=1)[0])


@pytest.mark.parametrize(("variant", "shape"), [("batch", (4,)), ("own", (1,)), ("sample", (30, 4))])
def test_the_random_draws_are_those_that_published_results_were_made_with(variant, shape):
    labels, rng, by_hand = random_labels(30), seeded(7), seeded(7)
    own = PARENT[labels][:, None] == torch.arange(SUPERCLASSES)
    kept = (torch.rand(shape, generator=by_hand) >= 0.5) | (own[0] if variant == "batch" else own)
    mask, _ = SuperclassDropout(PARENT, Dropout(variant=variant, rate=0.5))(labels, rng, 0.0)
    assert torch.equal(mask, kept.expand(30, -1)[:, PARENT]) and torch.equal(rng.get_state(), by_hand.get_state())


@pytest.mark.parametrize("variant", ["batch", "own", "sample"])
def test_at_rate_zero_not_even_a_draw_of_zero_drops_a_class(variant, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(shape))
    mask, weight = draws(variant, 0.0, random_labels(30), 1)
    assert mask.all() and (weight == 1).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_draws_are_made_where_the_labels_are(variant):
    dropout, labels, rng = SuperclassDropout(PARENT, Dropout(variant=variant, rate=0.5)), random_labels(30), seeded()
    with torch.device("meta"):  # where all would be that is made without a device
        mask, weight = dropout(labels, rng, 0.0)
    assert mask.device == weight.device == labels.device


@pytest.mark.parametrize("variant", ["batch", "own", "sample"])
def test_before_it_begins_all_classes_count_and_nothing_is_drawn(variant):
    labels, rng = random_labels(40), seeded()
    late = SuperclassDropout(PARENT, Dropout(variant=variant, rate=0.9, begin=0.7))
    for progress in (0.0, 0.4, 0.69):
        mask, weight = late(labels, rng, progress)
        assert mask.all() and (weight == 1).all()
    assert torch.equal(rng.get_state(), seeded().get_state())
    always = draws(variant, 0.9, labels, 1)
    assert all(torch.equal(one, other[0]) for one, other in zip(late(labels, rng, 0.7), always, strict=True))
    assert not always[0].all()


def test_fixed_classes_are_always_the_same():
    mask = PARENT == 2
    labels = torch.tensor([3, 0, 6, 9])
    found, weight = FixedClasses(mask)(labels, seeded(), 0.0)
    assert found.shape == (4, CLASSES) and (found == mask).all()
    assert weight.tolist() == [1, 0, 1, 0] and weight.dtype == torch.float32


# -------------------------------------------------------------------- what is seen


@pytest.mark.parametrize("variant", ["own", "sample", "batch"])
def test_a_dropped_class_has_probability_zero_and_is_never_the_argmax(variant):
    logits, _, mask, _ = case(variant, 0.9)
    logits[~mask] += 100
    masked = mask_logits(logits, mask)
    probability = masked.softmax(-1)
    assert (probability[~mask] == 0).all()
    torch.testing.assert_close(probability.sum(-1), torch.ones(len(logits)))
    assert mask.gather(1, masked.argmax(-1, keepdim=True)).all()
    assert torch.equal(masked[mask], logits[mask])


def test_a_dropped_class_is_not_the_argmax_even_if_all_logits_are_negative():
    mask = torch.tensor([True, False, True])
    assert mask_logits(torch.tensor([-50.0, -1.0, -60.0]), mask).argmax() == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_cross_entropy_is_torch_cross_entropy_on_the_classes_that_count(variant, smoothing):
    logits, labels, mask, weight = case(variant)
    found = masked_cross_entropy(logits, soft_targets(labels, mask, smoothing), mask, weight)
    losses = []
    for row, label, classes, counts in zip(logits, labels, mask, weight, strict=True):
        if counts:
            place = int(classes[:label].sum())  # of the label among the classes that count
            losses.append(F.cross_entropy(row[classes], torch.tensor(place), label_smoothing=smoothing))
    assert len(losses) > 0 and (len(losses) < len(labels)) == (variant == "batch")
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_masked_cross_entropy_takes_several_networks_at_once():
    logits, labels, mask, weight = case("batch", seed=3)
    targets = soft_targets(labels, mask, 0.1)
    several = torch.stack([logits, logits * 0.5, -logits])
    found = masked_cross_entropy(several, targets, mask, weight)
    assert found.shape == (3,)
    torch.testing.assert_close(found, torch.stack([masked_cross_entropy(x, targets, mask, weight) for x in several]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_numbers_and_vanish_where_nothing_counts(variant):
    logits, labels, mask, weight = case(variant, 0.9)
    logits.requires_grad_()
    masked_cross_entropy(logits, soft_targets(labels, mask, 0.1), mask, weight).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~mask] == 0).all() and (logits.grad[weight == 0] == 0).all()
    moved = (weight == 1) & (mask.sum(1) > 1)
    assert (logits.grad[moved].abs().sum(1) > 0).all()
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(len(labels)), atol=1e-6, rtol=0)


def test_a_single_class_has_no_loss_and_no_gradient():
    labels = torch.tensor([2, 2])
    logits = torch.randn(2, CLASSES, generator=seeded()).requires_grad_()
    mask = (PARENT == 1).expand(2, -1)
    loss = masked_cross_entropy(logits, soft_targets(labels, mask, 0.1), mask, torch.ones(2))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_a_batch_in_which_one_sample_counts_has_the_loss_of_that_one():
    logits, labels, mask, _ = case("own")
    targets, weight = soft_targets(labels, mask, 0.1), torch.eye(len(labels))[5]
    alone = masked_cross_entropy(logits[5:6], targets[5:6], mask[5:6], torch.ones(1))
    torch.testing.assert_close(masked_cross_entropy(logits, targets, mask, weight), alone)
    placed = mask_logits(logits, mask)[5]
    torch.testing.assert_close(alone, F.cross_entropy(placed[mask[5]], targets[5][mask[5]]))


def test_a_batch_in_which_nothing_counts_has_no_loss():
    logits, labels, mask, _ = case("own")
    logits.requires_grad_()
    loss = masked_cross_entropy(logits, soft_targets(labels, mask, 0.0), mask, torch.zeros(len(labels)))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("variant", ["none", "own", "sample"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_soft_targets_sum_to_one_over_the_classes_that_count(variant, smoothing):
    _, labels, mask, _ = case(variant)
    targets = soft_targets(labels, mask, smoothing)
    torch.testing.assert_close(targets.sum(-1), torch.ones(len(labels)))
    assert (targets[~mask] == 0).all() and (targets >= 0).all()
    expected = 1 - smoothing + smoothing / mask.sum(-1)
    torch.testing.assert_close(targets.gather(1, labels[:, None])[:, 0], expected)


def test_a_setting_has_a_name_of_its_own():
    assert NO_DROPOUT.name == Dropout(variant="none", rate=0.5).name == "none"
    assert Dropout(variant="own", rate=0.5).name == "own-0.5"
    assert Dropout(variant="sample", rate=0.9, begin=0.8).name == "sample-0.9-from-0.8"
