"""What the explorer knows of any set of superclasses is what the kit would answer."""

import base64
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import LITE, SIZED, seeded
from report_cases import make_comparison
from tiny_kit import make_kit

from eas.additive import AdditiveGenerator
from eas.costs import Bound
from eas.expected import ExpectedAccuracy, answers_of
from eas.serving.kit_files import load_kit
from eas.serving.latency import LatencyTable, save_latency
from pipeline.publish import study_kit
from pipeline.report.__main__ import main
from pipeline.report.explorer import sets as explorer_sets
from pipeline.tables import comparison_table

TABLE = {  # of a space of two stages
    "processor": "a chip",
    "runtime": "onnxruntime",
    "version": "1",
    "threads": 1,
    "archs": 60,
    "error": 0.02,
    "correlation": 0.99,
    "margin": 0.1,
    "start": 1e-5,
    "fixed_madds": 1e-10,
    "first_madds": (2e-10, 5e-11),
    "later_madds": (1e-10, 1e-10),
    "block": (1e-6, 2e-6),
}


def random_expected(classes, images=400, archs=3):
    answers = answers_of(torch.randn(archs * images, classes, generator=seeded())).view(archs, images, classes)
    answers = answers // 32  # many are equal
    labels = torch.randint(classes, (images,), generator=seeded(1))
    madds = torch.tensor([3e5, 4e5, 6e5], dtype=torch.float64)
    return ExpectedAccuracy(
        answers, labels, madds, torch.tensor([0.1, 0.9, -0.02]).double(), torch.tensor([1.0, 2.0]).double()
    )


@pytest.fixture
def kit(supernet, dataset):
    """A kit whose generator sees the classes, and knows what to expect."""
    kit = make_kit(supernet, dataset)
    return replace(kit, expected=random_expected(len(kit.hierarchy.classes)))


def table_of(space, stages=2):
    per_stage = ("first_madds", "later_madds", "block")
    numbers = TABLE | {name: (TABLE[name] * 2)[:stages] for name in per_stage}
    sizes = {"space": space.recipe, "image_size": space.image_size, "in_channels": space.in_channels}
    return LatencyTable(**numbers, **sizes)


def content_of(kit, study, table=None):
    """As it is read again."""
    comparison = make_comparison(kit.hierarchy.superclasses, unions=())
    return json.loads(json.dumps(explorer_sets.content_of(kit, study, comparison, table)))


def random_members(kit, count=40):
    """Sets of superclasses, of every size."""
    total, rng = len(kit.hierarchy.superclasses), np.random.default_rng(0)
    return [sorted(rng.choice(total, 1 + index % total, replace=False).tolist()) for index in range(count)]


def place_of(content, unit, members, value):
    """The number of the arch that the page shows."""
    bound = content["bounds"][unit]
    count = sum(len(content["superclasses"][each]["classes"]) for each in members)
    row = bound["sets"].get(",".join(map(str, members)), bound["common"][str(count)])
    return bound["rows"][row][value]


def check_against(kit, content, unit, bounds_of, sets=40, seed=0):
    """That for random sets and bounds arch and costs are those that the generator and the space tell."""
    rng, space = np.random.default_rng(seed), kit.supernet.space
    for members in random_members(kit, sets):
        if len(members) > content["bounds"][unit]["most"]:
            continue
        value = int(rng.integers(len(content["bounds"][unit]["values"])))
        mask = kit.hierarchy.class_mask([kit.hierarchy.superclasses[each] for each in members])
        budget, bounds = bounds_of(content["bounds"][unit]["values"][value])
        arch = kit.generator.generate(mask[None], budget, bounds)[0]
        place, count = place_of(content, unit, members, value), int(mask.sum())
        assert content["archs"][place] == explorer_sets.arch_content(space, arch)
        costs = [each["without"][place] + each["of_class"] * count for each in content["costs"]]
        assert costs[0] == space.madds(arch, count)
        assert costs[unit] <= content["bounds"][unit]["values"][value] * (1 if unit else 1e6)
        assert content["parameters"]["without"][place] + content["parameters"]["of_class"] * count == (
            space.parameters(arch, count)
        )


def in_madds(value):
    return torch.tensor([value * 1e6], dtype=torch.float64), ()


@pytest.fixture(scope="module")
def published(request):
    """CIFAR-100's kit, and what the committed page knows of it."""
    root = request.config.rootpath
    return load_kit(root / "weights" / "cifar100"), json.loads(
        (root / "reports" / "cifar100" / "sets.json").read_text()
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_published_archs_are_those_that_the_kit_generates(published, seed):
    kit, content = published
    assert content["bounds"][0]["most"] == 20 and len(content["bounds"][0]["values"]) > 40
    check_against(kit, content, 0, in_madds, sets=200, seed=seed)


def test_archs_of_a_generator_that_sees_the_classes_are_known_for_every_set(kit, study):
    content = content_of(kit, study)
    assert content["bounds"][0]["most"] == 10 and len(content["bounds"][0]["sets"]) > 100  # all 1,023 are listed
    check_against(kit, content, 0, in_madds)


def test_distinct_archs_are_kept_once(kit, study):
    content = content_of(kit, study)
    kept = [json.dumps(each) for each in content["archs"]]
    assert len(set(kept)) == len(kept) < 200
    (bound,) = content["bounds"]
    assert len({tuple(row) for row in bound["rows"]}) == len(bound["rows"])
    assert {place for row in bound["rows"] for place in row} == set(range(len(kept)))


def test_larger_sets_are_left_out_where_their_archs_do_not_follow_from_their_size(kit, study, monkeypatch):
    monkeypatch.setattr(explorer_sets, "LISTED", 60)
    content = content_of(kit, study)
    assert content["bounds"][0]["most"] == 2 and all(each.count(",") < 2 for each in content["bounds"][0]["sets"])
    check_against(kit, content, 0, in_madds)


def test_larger_sets_follow_where_only_the_number_of_classes_counts(kit, study, monkeypatch):
    monkeypatch.setattr(explorer_sets, "LISTED", 60)
    space = kit.supernet.space
    generator = AdditiveGenerator(space, len(kit.hierarchy.classes), (3e5, 6e5))
    generator.effects.copy_(torch.randn(generator.effects.shape, generator=seeded()))
    kit = replace(kit, generator=generator)
    content = content_of(kit, study)
    assert content["bounds"][0]["most"] == 10 and not content["bounds"][0]["sets"]
    check_against(kit, content, 0, in_madds)


def test_a_table_of_latency_bounds_milliseconds(kit, study):
    table = table_of(kit.supernet.space)
    content = content_of(kit, study, table)
    assert [bound["key"] for bound in content["bounds"]] == ["madds", "ms"] and len(content["costs"]) == 2
    assert "a chip" in content["bounds"][1]["told"]

    def in_ms(value):
        most = torch.tensor([value * 1e-3], dtype=torch.float64)
        return torch.tensor([torch.inf]).double(), [Bound(table, most)]

    check_against(kit, content, 1, in_ms)


def test_images_of_several_sizes_are_told(hierarchy, study, dataset):
    torch.manual_seed(0)
    supernet = SIZED.supernet(len(hierarchy.classes), dataset.mean, dataset.std)
    generator = AdditiveGenerator(SIZED, len(hierarchy.classes), (1.5e5, 6e5))
    generator.effects.copy_(torch.randn(generator.effects.shape, generator=seeded()))
    kit = replace(make_kit(supernet, dataset), generator=generator)
    content = content_of(kit, study)
    assert len({arch["pixels"] for arch in content["archs"]}) > 1 and list(content["sized"]) == ["9", "12", "16"]
    check_against(kit, content, 0, in_madds)


def counted(content, members):
    """How many answers of every arch are right, from what the page holds, and of how many images."""
    expected, total = content["expected"], len(content["superclasses"])
    packed = np.frombuffer(base64.b64decode(expected["beaten"]), np.uint8)
    bits = np.unpackbits(packed.reshape(len(expected["madds"]), sum(expected["images"]), -1), axis=2, bitorder="little")
    owner = np.repeat(np.arange(total), expected["images"])
    chosen = bits[:, np.isin(owner, members)][:, :, members]
    return (~chosen.any(2)).sum(1).tolist(), chosen.shape[1]


def test_right_answers_are_counted_as_the_model_does_ties_included(kit, study, published):
    for asked, content in ((kit, content_of(kit, study)), published):
        for members in random_members(asked):
            mask = asked.hierarchy.class_mask([asked.hierarchy.superclasses[each] for each in members])
            right, count = asked.expected.right_answers(mask)
            assert counted(content, members) == (right.tolist(), count)


def test_bounds_are_round_numbers_and_the_studys_own_are_among_them(published):
    _, content = published
    values = content["bounds"][0]["values"]
    assert values[:3] == [15, 15.5, 16] and values[-1] == 35 and {20, 25, 30} < set(values)
    assert explorer_sets.steps_between(0.61, 1.2)[:3] == [0.61, 0.62, 0.63]
    for low, high in ((3.2, 97.1), (0.0113, 0.0521), (7, 17)):
        steps = explorer_sets.steps_between(low, high)
        assert 40 <= len(steps) <= 85 and steps == sorted(set(steps)) and (steps[0], steps[-1]) == (low, high)


def test_a_cost_that_is_no_line_in_the_classes_is_refused():
    with pytest.raises(ValueError, match="what a class costs"):
        explorer_sets.linear(lambda count: torch.tensor([1.0, 2.0]) * count**2)


def test_the_published_file_is_written_again_and_a_table_of_latency_is_found(request, tmp_path, monkeypatch):
    root = request.config.rootpath
    for name in ("weights", "params.yaml"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "reports" / "cifar100").mkdir(parents=True)
    shutil.copy(root / "reports" / "cifar100" / "comparison.csv", tmp_path / "reports" / "cifar100")
    monkeypatch.chdir(tmp_path)
    assert main(["sets", "cifar100"]) == 0
    written = (tmp_path / "reports" / "cifar100" / "sets.json").read_text()
    assert written == (root / "reports" / "cifar100" / "sets.json").read_text()
    (tmp_path / "weights").unlink()
    shutil.copytree(root / "weights" / "cifar100", tmp_path / "weights" / "cifar100")
    table = table_of(load_kit("cifar100").supernet.space, stages=3)
    save_latency(table, tmp_path / "weights" / "cifar100" / "latency.json")
    assert main(["sets", "cifar100"]) == 0
    content = json.loads((tmp_path / "reports" / "cifar100" / "sets.json").read_text())
    assert [bound["key"] for bound in content["bounds"]] == ["madds", "ms"]


def test_a_study_without_a_kit_is_told_by_its_results(micro, monkeypatch, tmp_path):
    """As where the images may not be published."""
    root = tmp_path / "root"
    (root / "reports" / "micro").mkdir(parents=True)
    comparison_table(micro).to_csv(root / "reports" / "micro" / "comparison.csv", index=False)
    monkeypatch.setattr(explorer_sets, "open_workspace", lambda study, root: micro)
    monkeypatch.setattr(explorer_sets, "load_study", lambda study, root: micro.study)
    content = json.loads(explorer_sets.write("micro", root).read_text())
    check_against(study_kit(micro, micro.dataset()), content, 0, in_madds)
    assert content["synthetic"] and content["measured"]["sets"] and content["expected"]


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sets", "cifar100"]) == 1
    assert "comparison.csv is missing" in capsys.readouterr().err


def test_blocks_that_a_stage_never_has_are_not_shown():
    found = explorer_sets.stages(LITE)
    assert [len(stage["blocks"]) for stage in found] == [2, 2, 3, 3, 4, 1] == [len(stage["full"]) for stage in found]
    assert found[-1]["blocks"] == ["6.1"] and all(full > 0 for stage in found for full in stage["full"])
