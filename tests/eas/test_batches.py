"""Batches: order, shapes, and random changes against slow references."""

import numpy as np
import pytest
import torch

from eas.data import Split
from eas.data.batches import as_input, augmented, batches
from eas.recipes import Augment

OFF = Augment(shift=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count, channels=1, side=12, seed=0):
    return torch.randint(256, (count, channels, side, side), generator=seeded(seed), dtype=torch.uint8)


def marked(count, side=8):
    """Images of one grey value, which is the label."""
    labels = torch.arange(count)
    return Split(labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, side, side).contiguous(), labels)


def test_batches_have_one_shape_and_leave_out_the_rest():
    found = list(batches(marked(50), 16, OFF, seeded()))
    assert len(found) == 3
    for images, labels in found:
        assert images.shape == (16, 3, 8, 8) and images.dtype == torch.float32 and labels.shape == (16,)
        assert images.min() >= 0 and images.max() <= 1
    assert len(torch.cat([labels for _, labels in found]).unique()) == 48


@pytest.mark.parametrize("augment", [OFF, Augment(shift=3, flip=True)])
def test_labels_stay_with_their_images(augment):
    for images, labels in batches(marked(50), 16, augment, seeded()):
        assert torch.equal((images * 255).round().long(), labels[:, None, None, None].expand_as(images))


def test_epochs_are_in_a_random_order_that_the_generator_decides():
    def order(seed):
        augment = Augment(shift=2, flip=True, cutout=3)
        split = Split(random_images(64), torch.arange(64))
        images, labels = zip(*batches(split, 16, augment, seeded(seed)), strict=True)
        return torch.cat(images), torch.cat(labels)

    images, labels = order(0)
    torch.manual_seed(99)
    again, other = order(0), order(1)
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1])
    assert not torch.equal(labels, other[1]) and not torch.equal(labels, torch.arange(64))
    rng = seeded(0)
    split = Split(random_images(64), torch.arange(64))
    one, two = (torch.cat([labels for _, labels in batches(split, 16, OFF, rng)]) for _ in range(2))
    assert not torch.equal(one, two)  # the next epoch


def test_a_split_smaller_than_the_batch_is_one_batch():
    ((images, labels),) = batches(marked(5), 16, OFF, seeded())
    assert len(images) == 5 and sorted(labels.tolist()) == list(range(5))


def test_no_change_is_no_change():
    images = random_images(20, 3)
    assert torch.equal(augmented(images, OFF, seeded()), images)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("shift", "side"), [(1, 12), (2, 12), (3, 8)])
def test_shift_and_flip_equal_a_naive_reference(shift, side, flip):
    """Every image is one of its shifts by reflection (mirrored or not), and every one of them comes up."""
    count = 12 * (2 * shift + 1) ** 2
    images = random_images(count, 2, side)
    found = augmented(images, Augment(shift=shift, flip=flip), seeded()).numpy()
    assert found.shape == images.shape and found.dtype == np.uint8
    seen = np.zeros((2, 2 * shift + 1, 2 * shift + 1), dtype=int)
    for image, change in zip(images.numpy(), found, strict=True):
        padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)), mode="reflect")
        matches = [
            (mirrored, down, right)
            for mirrored, source in enumerate([padded, padded[:, :, ::-1]])
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
            if np.array_equal(source[:, down : down + side, right : right + side], change)
        ]
        assert len(matches) == 1
        seen[matches[0]] += 1
    marginals = seen.sum((0, 2)), seen.sum((0, 1))
    assert all((np.abs(marginal / marginal.mean() - 1) < 0.5).all() for marginal in marginals)
    assert 0.35 < seen[1].sum() / count < 0.65 if flip else seen[1].sum() == 0


@pytest.mark.parametrize("cutout", [1, 3, 4, 7, 8])
def test_cutout_blanks_a_square_of_its_side(cutout):
    side = 20
    images = torch.full((4000, 2, side, side), 9, dtype=torch.uint8)
    changed = augmented(images, Augment(shift=0, cutout=cutout), seeded())
    assert torch.equal(changed[:, 0], changed[:, 1])
    blank = changed[:, 0] == 0
    high, wide = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(high * wide, blank.sum((1, 2)))  # a rectangle: at an edge, what is inside
    assert high.min() >= 1 and wide.min() >= 1
    assert high.max() == wide.max() == cutout
    assert (blank.sum((1, 2)) == cutout**2).float().mean() > 0.9 * ((side - cutout + 1) / side) ** 2
    assert (changed[~blank[:, None].expand_as(changed)] == 9).all()
    assert blank.any(0).all()


def test_as_input_maps_bytes_to_the_unit_interval():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(as_input(images), torch.tensor([0.0, 0.2, 1.0]))
    assert images.tolist() == [0, 51, 255]


@pytest.mark.parametrize("shift", [8, 9, 100])
def test_a_shift_by_the_whole_image_is_refused_before_any_batch(shift):
    with pytest.raises(ValueError, match=f"augment.shift must be below the image size, 8 pixels, got {shift}$"):
        batches(marked(5), 16, Augment(shift=shift), seeded())
    assert len(list(batches(marked(5), 16, Augment(shift=7), seeded()))) == 1


def test_no_images_are_refused_before_any_batch():
    with pytest.raises(ValueError, match="no images"):
        batches(marked(5).only(torch.zeros(5, dtype=torch.bool)), 16, OFF, seeded())


def test_the_random_draws_are_those_that_published_results_were_made_with():
    split = Split(random_images(50, 3), torch.arange(50))
    rng = seeded(3)
    order = torch.randperm(50, generator=rng)
    found = batches(split, 16, Augment(shift=2, flip=True, cutout=3), seeded(3))
    for rows, (images, labels) in zip(order[:48].split(16), found, strict=True):
        down, right = (torch.randint(5, (16, 1), generator=rng)[:, 0].tolist() for _ in range(2))
        mirrored = (torch.randint(2, (16, 1), generator=rng)[:, 0] == 0).tolist()
        blank = [(torch.randint(12, (16, 1), generator=rng)[:, 0] - 1).tolist() for _ in range(2)]
        for place, row in enumerate(rows.tolist()):
            padded = np.pad(split.images[row].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
            image = padded[:, down[place] :, right[place] :][:, :12, :12]
            image = (image[:, :, ::-1] if mirrored[place] else image).copy()
            top, left = blank[0][place], blank[1][place]
            image[:, max(top, 0) : top + 3, max(left, 0) : left + 3] = 0
            assert torch.equal(images[place], as_input(torch.from_numpy(image)))
        assert torch.equal(labels, rows)
