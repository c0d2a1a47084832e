"""Images that stay in files: the same batches as from memory or a mapped file, crops and colours, and their file."""

import numpy as np
import pytest
import torch
from cases import seeded
from PIL import Image

from eas import data, devices
from eas.data import Folder, Split
from eas.data.batches import as_input, batches
from eas.data.photographs import ChangedImages, Photographs, load_batches
from eas.recipes import Augment

CROPPED = Augment(shift=0, flip=True, crop=0.3, color=0.4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Forty noisy JPEG files of four classes and other sizes, in folders."""
    root, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for part, each in (("train", 8), ("test", 2)):
        for name in ("warm/red", "warm/pink", "cold/blue", "cold/green"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(each):
                shape = (*rng.integers(20, 60, 2), 3)
                Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(folder / f"{index}.jpg")
    return root


def source(**changes):
    fields = {"train": "train", "test": "test", "image_size": 16, "selection": 0.25, "calibration": 0.125, "seed": 0}
    return Folder(**fields | changes)


@pytest.fixture(scope="module")
def both(place, tmp_path_factory):
    """The data set decoded into a mapped file, and the one that stays in its files."""
    folder = tmp_path_factory.mktemp("build")
    made = [data.make(source(most_gigabytes=most), place, folder / f"{most}") for most in (64.0, 1e-9)]
    return [dataset for dataset, _ in made]


def test_both_hold_the_same_images_and_what_is_told_of_them(both):
    mapped, files = both
    assert isinstance(files.train.images, Photographs) and not isinstance(mapped.train.images, Photographs)
    assert (mapped.mean, mapped.std, mapped.hierarchy) == (files.mean, files.std, files.hierarchy)
    for name in data.SPLITS:
        one, other = getattr(mapped, name), getattr(files, name)
        assert torch.equal(one.images, other.images.decoded()) and torch.equal(one.labels, other.labels)
        assert other.images.shape == one.images.shape and other.images.nbytes == one.images.nbytes


def test_a_data_set_of_files_is_read_from_anywhere_and_where_it_was_moved_with_them(both, place, tmp_path, monkeypatch):
    made, _ = data.make(source(most_gigabytes=1e-9), place, place / "build" / "set")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").symlink_to(place)
    again = data.load(tmp_path / "moved" / "build" / "set")
    assert all(path.startswith(str(tmp_path)) for path in again.train.images.paths)
    assert torch.equal(again.train.images.decoded(), made.train.images.decoded())


def test_rows_are_picked_as_of_a_tensor(both):
    mapped, files = (dataset.train for dataset in both)
    mask = torch.tensor([True, False, False, True])
    assert torch.equal(mapped.only(mask).images, files.only(mask).images.decoded())
    rows = torch.tensor([5, 1, 1])
    assert torch.equal(mapped.pick(rows), files.pick(rows)) and torch.equal(mapped.images[3], files.images[3])
    assert torch.equal(as_input(mapped.images[2:7]), as_input(files.images[2:7]))
    assert [len(each) for each in files.images.split(8)] == [len(each) for each in mapped.images.split(8)]


@pytest.mark.parametrize(
    "augment", [Augment(shift=2, flip=True, cutout=3), CROPPED, CROPPED.model_copy(update={"color": 0})]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_memory_and_from_files_and_with_any_number_of_workers(
    both, augment, workers, monkeypatch
):
    (mapped, files), plain = (
        (dataset.train for dataset in both),
        Split(both[0].train.images.clone(), both[0].train.labels),
    )
    alone = [*batches(plain, 4, augment, seeded())]
    monkeypatch.setattr(devices, "reading_workers", lambda: workers)
    for split in (plain, mapped, files) if augment.by_image else (mapped,):
        torch.manual_seed(workers)
        found = [*batches(split, 4, augment, seeded())]
        assert len(found) == len(alone) == 5
        for (images, labels), (others, marks) in zip(found, alone, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, marks)


@pytest.mark.parametrize("augment", [Augment(shift=2, cutout=3), CROPPED])
def test_an_epoch_goes_on_where_it_was_left(both, augment):
    for dataset in both:
        whole = [*batches(dataset.train, 4, augment, seeded())]
        rest = [*batches(dataset.train, 4, augment, seeded(), skip=3)]
        assert len(rest) == len(whole)
        for (images, labels), (others, marks) in zip(rest[3:], whole[3:], strict=True):
            assert torch.equal(images, others) and torch.equal(labels, marks)
        assert all(torch.equal(one[1], other[1]) for one, other in zip(rest, whole, strict=True))


def test_what_is_skipped_is_not_read(both, monkeypatch):
    read, decode = [], Photographs.__getitem__
    monkeypatch.setattr(Photographs, "__getitem__", lambda images, row: read.append(row) or decode(images, row))
    assert len([*batches(both[1].train, 4, CROPPED, seeded(), skip=3)]) == 5 and len(read) == 8


def test_every_image_has_a_change_of_its_own_and_the_global_generator_is_left_alone(both):
    images, rows = both[0].train.images, [torch.tensor([0, 0]), torch.tensor([0])]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = load_batches(images, rows, torch.tensor([1, 2, 1]), CROPPED, 0)
    assert torch.equal(torch.rand(3), expected)
    assert (
        torch.equal(first[0], second[0]) and not torch.equal(first[0], first[1]) and first[0].shape == images[0].shape
    )
    assert torch.equal(ChangedImages(images, Augment(shift=3))[0, 1], images[0])


def test_crops_are_parts_scaled_up_and_colours_change_all_pixels_alike():
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(3, 32, 32).contiguous()
    spans = [int(np.ptp(ChangedImages(ramp[None], Augment(shift=0, crop=0.1))[0, seed].numpy())) for seed in range(40)]
    assert min(spans) < 130 and max(spans) > 160 and max(spans) <= 248
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    values = {tuple(ChangedImages(grey, Augment(shift=0, color=0.4))[0, seed].unique().tolist()) for seed in range(20)}
    assert all(len(value) == 1 for value in values) and len(values) > 10


def test_large_jpeg_files_are_decoded_at_the_size_that_is_needed(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "large.jpg", quality=95)
    smooth.save(tmp_path / "large.png")
    one, other = (Photographs([tmp_path / f"large.{kind}"], 64)[0].float() for kind in ("jpg", "png"))
    assert (one - other).abs().mean() < 2
