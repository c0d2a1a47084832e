"""The glyphs data set: what it promises about classes, typefaces, order and determinism."""

import pytest
import torch

from eas.data import Glyphs
from eas.data.glyphs import SUPERCLASSES, TEST_TYPEFACES, TRAIN_TYPEFACES, render, templates

CHARACTERS = "".join(SUPERCLASSES.values())
FEW = {"digits": "0123", "signs": "&@#%?"}


def few(typefaces=("DejaVuSans", "DejaVuSerif"), **changes):
    arguments = {"image_size": 16, "per_typeface": 3, "seed": 0, "superclasses": FEW} | changes
    return render(typefaces, **arguments)


def test_classes_are_unique_and_superclasses_unequal():
    assert len(SUPERCLASSES) == 10
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 160
    sizes = [len(members) for members in SUPERCLASSES.values()]
    assert min(sizes) == 8 and max(sizes) == 38 and len(set(sizes)) > 5


def test_look_alikes_are_different_classes():
    assert len(set("AΑА") & set(CHARACTERS)) == 3
    assert len(set("0OΟОՕ") & set(CHARACTERS)) == 5


def test_typefaces_are_disjoint_and_cover_every_character():
    assert not set(TRAIN_TYPEFACES) & set(TEST_TYPEFACES)
    assert len(set(TRAIN_TYPEFACES)) == 8 and len(set(TEST_TYPEFACES)) == 4
    for typeface in TRAIN_TYPEFACES + TEST_TYPEFACES:
        glyphs = templates(typeface, CHARACTERS)
        assert glyphs.shape[0] == 160 and (glyphs.amax((1, 2, 3)) > 0.5).all()


def test_shapes_types_and_labels():
    images, labels = render(TEST_TYPEFACES, image_size=18, per_typeface=2, seed=3)
    assert images.shape == (160 * 4 * 2, 1, 18, 18) and images.dtype == torch.uint8
    assert labels.shape == (160 * 4 * 2,) and labels.dtype == torch.int64
    assert (labels.bincount() == 8).all()


def test_labels_follow_the_order_of_the_superclasses():
    images, labels = few(["DejaVuSans"], per_typeface=1, distortion=0)
    swapped, _ = few(["DejaVuSans"], per_typeface=1, distortion=0, superclasses=dict(reversed(FEW.items())))
    assert labels.tolist() == list(range(9))
    assert torch.equal(images.roll(5, 0), swapped)


def test_equal_seeds_give_equal_bytes_whatever_the_threads():
    first = few()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        second = few()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], few(seed=1)[0])


def test_more_typefaces_or_copies_leave_images_unchanged():
    both, alone, fewer = few()[0], few(["DejaVuSerif"])[0], few(["DejaVuSerif"], per_typeface=2)[0]
    assert torch.equal(both[27:], alone)
    assert torch.equal(alone[:18], fewer)


def test_typefaces_do_not_share_their_noise():
    # The regular and the bold triangle are the same drawing, so that only the noise is left to differ.
    same, noisy = (
        few(["DejaVuSans", "DejaVuSans-Bold"], superclasses={"shapes": "▲"}, distortion=d)[0] for d in (0, 1)
    )
    assert torch.equal(same[:3], same[3:])
    assert len(noisy.flatten(1).unique(dim=0)) == 6


def test_a_class_differs_between_training_and_test_typefaces():
    train = torch.stack([templates(typeface, CHARACTERS) for typeface in TRAIN_TYPEFACES])
    test = torch.stack([templates(typeface, CHARACTERS) for typeface in TEST_TYPEFACES])
    nearest = (test[:, None] - train).abs().mean((3, 4, 5)).amin(1)  # [test typefaces, classes]
    # A few glyphs, such as the bold #, are drawn nearly alike in two families.
    assert (nearest > 0.005).float().mean() > 0.95


@pytest.mark.parametrize("image_size", [16, 20])
def test_without_distortion_glyphs_are_centred(image_size):
    images, _ = render(TRAIN_TYPEFACES[:2], image_size=image_size, per_typeface=1, seed=0, distortion=0)
    for image in images[:, 0] > 64:
        for inked in (image.any(0).nonzero(), image.any(1).nonzero()):
            assert abs(inked.min() - (image_size - 1 - inked.max())) <= 1
    assert (images[:, :, 0] == 0).all()


def test_without_distortion_copies_are_equal_and_with_it_they_are_not():
    clean, noisy = (few(distortion=amount)[0].view(2, 3, -1) for amount in (0, 1))
    assert torch.equal(clean[:, 0], clean[:, 1])
    assert not torch.equal(noisy[:, 0], noisy[:, 1])


def test_distortion_scales_the_difference_from_the_clean_glyph():
    clean, half, full, double = (few(distortion=amount)[0].float() for amount in (0, 0.5, 1, 2))
    assert (half - clean).abs().mean() < (full - clean).abs().mean() < (double - clean).abs().mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typefaces": ["Arial"]}, "unknown typeface 'Arial'; known: DejaVuSans, "),
        ({"typefaces": []}, "at least one typeface"),
        ({"superclasses": {"hebrew": "אב"}}, "'DejaVuSerif-Bold' does not cover the characters: א ב"),
        ({"superclasses": {"blank": "a "}}, "character ' ' leaves no ink"),
        ({"superclasses": {"one": "ab", "two": "bc"}}, "names of more than one superclass or class: b"),
        ({"superclasses": {"one": "ab", "none": ""}}, "superclasses without classes: none"),
        ({"superclasses": {}}, "0 superclasses"),
        ({"image_size": 7}, "image_size must be 8 or more"),
        ({"per_typeface": 0}, "per_typeface 1 or more"),
        ({"seed": -1}, "seed not negative"),
        ({"distortion": -0.1}, "distortion must be finite and not negative, got -0.1"),
        ({"distortion": float("nan")}, "distortion must be finite"),
    ],
)
def test_errors_are_one_clear_line(changes, message):
    with pytest.raises(ValueError) as caught:
        few(**({"typefaces": ["DejaVuSerif-Bold"]} | changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def glyphs(**changes):
    arguments = {"image_size": 16, "per_typeface": 1, "selection": 0.25, "calibration": 0.1, "seed": 0} | changes
    return Glyphs(**arguments)


def test_the_source_renders_both_sides_with_seeds_of_their_own():
    train, test = glyphs(seed=5, per_typeface=2).load()
    for split, typefaces, seed in ((train, TRAIN_TYPEFACES, 5), (test, TEST_TYPEFACES, 6)):
        images, labels = render(typefaces, image_size=16, per_typeface=2, seed=seed)
        assert torch.equal(split.images, images) and torch.equal(split.labels, labels)


def test_the_source_names_its_classes():
    hierarchy = glyphs().hierarchy()
    assert hierarchy.superclasses == tuple(SUPERCLASSES) and hierarchy.classes == tuple(CHARACTERS)
    assert hierarchy.class_mask(["greek"]).sum() == 16
    assert glyphs().synthetic and "glyphs" in glyphs().about and "\n" not in glyphs().about


@pytest.mark.parametrize(
    "changes", [{"image_size": 7}, {"image_size": 65}, {"per_typeface": 0}, {"seed": -1}, {"seed": 2**63 - 1}]
)
def test_the_source_refuses_what_it_cannot_render(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        glyphs(**changes)
