"""Files from strangers: whatever they hold, what loads them answers in one line that names them, or as if nothing were.

Hundreds of damaged and hostile files of every kind go through what users call. Nothing else is raised, nothing is
printed, no code runs, and none takes 2 seconds of a processor or a gigabyte.
"""

import dataclasses
import json
import math
import os
import resource
import shutil
import signal
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hostile_cases as hostile
import onnx
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from photo_cases import draw_shop
from safetensors.torch import load_file, save_file
from tiny_kit import FILES, make_kit, write_tiny_kit

import eas
from eas import data
from eas.costs import total
from eas.data import Folder
from eas.data.photographs import Photographs
from eas.files import checksum, read_tensors, sealed, sha256
from eas.recipes import Training
from eas.serving.answers import read_image
from eas.serving.deploy import Card
from eas.serving.latency import LatencyTable, load_latency, save_latency
from eas.training import Checkpoint, make_optimizer
from pipeline.own_study import check
from pipeline.params import Study, load_study
from pipeline.store import Result, Workspace

ROOT = Path(__file__).parents[1]
SECONDS, BYTES = 2, 1e9  # that a file may cost: of a processor, and of memory
STUCK = 10  # seconds of a clock: on a machine that is busy with other things
COUNTED = Counter()  # (kind, how it ended): cases
KINDS = {"network", "onnx", "kit", "file of a kit", "study", "superclasses", "data set", "latency", "checkpoint"}
KINDS |= {"result", "start", "image", "photographs"}


class Stuck(BaseException):
    """So that no loader catches it."""


@contextmanager
def within(seconds):
    """Raise Stuck after so many."""

    def stop(*_):
        raise Stuck(f"nothing after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wrong_with(load, right, path):
    """How a case ended, 'refused' or 'harmless', and what is wrong with that: empty where it is as it should be."""
    began, more_bytes = time.process_time(), hostile.memory_from_here()
    try:
        with within(STUCK):
            found = load()
    except (ValueError, OSError) as error:
        message, ended = str(error), "refused"
        plain = message.isprintable() and (type(error) is ValueError or isinstance(error, OSError))
        wrong = "" if plain and str(path) in message and len(message) < 4000 else f"{type(error)}: {message[:300]!r}"
    except BaseException as error:
        ended, wrong = "raised", f"{type(error)}: {str(error)[:300]}"
    else:
        ended, wrong = "harmless", "" if right(found) else "something else is served"
    took, more = time.process_time() - began, more_bytes()
    if took > SECONDS or more > BYTES:
        wrong += f" (took {took:.1f} s, {more / 1e6:.0f} MB)"
    return ended, wrong


@pytest.fixture
def put_to_test(tmp_path, capfd, monkeypatch):
    """Put all cases of a kind to the test, each on a copy of a folder of good files."""
    monkeypatch.chdir(tmp_path)  # where code that ran would leave its trace

    def tried(kind, good, name, cases, load, right, **names):
        """`load(path)` where `good`/name was changed; `named`: what messages have to name, in place of the path."""
        told, copy = [], tmp_path / "copy"
        assert len(cases) >= 20, kind
        for case, change in cases.items():
            shutil.copytree(good, copy, symlinks=True)
            path = copy / name
            change(path)
            ended, wrong = wrong_with(lambda path=path: load(path), right, copy / names.get("named", name))
            COUNTED[kind, ended] += 1
            if wrong:
                told.append(f"{kind}, {case[:60]}: {wrong}")
            shutil.rmtree(copy)
        said = capfd.readouterr()
        assert not told, "\n" + "\n".join(told)
        assert (said.out, said.err) == ("", "")
        assert not [*Path.cwd().rglob("*hacked*")]

    return tried


@pytest.fixture(scope="module", autouse=True)
def counted():
    """Tell how many cases there were, and hold that there are enough, where all of this module was run."""
    yield
    if kinds := sorted({kind for kind, _ in COUNTED}):
        lines = [f"{kind}: {COUNTED[kind, 'refused']} refused, {COUNTED[kind, 'harmless']} harmless" for kind in kinds]
        print("\n".join([*lines, f"{sum(COUNTED.values())} cases"]))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("good")


@pytest.fixture(scope="module")
def kit(space, hierarchy, dataset, place):
    torch.manual_seed(0)
    kit = make_kit(space.supernet(len(hierarchy.classes), dataset.mean, dataset.std), dataset)
    write_tiny_kit(place / "kit", kit, dataset)
    return eas.load_kit(place / "kit")


# -------------------------------------------------------------------- specialised networks


@pytest.fixture(scope="module")
def network(kit, place):
    """The folder of a specialised network, in both forms."""
    served = kit.specialize(["arrows", "0"], 5e5, refuse=True)
    eas.save(*served, place / "network" / "network")
    eas.export_onnx(*served, place / "network" / "network")
    return place / "network"


@pytest.fixture(scope="module")
def serves_the_same(network, dataset):
    """Whether a loaded network says what the undamaged one says; its card may be told to be another."""
    images = dataset.test.images[:20].float() / 255

    def says(served):
        with torch.inference_mode():
            return served[0](images)

    answers, card = says(eas.load(network / "network")), eas.load(network / "network")[1]

    def same(served, *, any_card=False):
        return torch.allclose(says(served), answers, atol=1e-4) and (any_card or served[1] == card)

    return same


def load_network(path):
    return eas.load(path.with_suffix(""))


def sealed_network(change=None, *, of_tensors=None):
    """A card changed, or the weights, with everything that would give it away: hash, and the card in the metadata."""

    def forge(path):
        weights, text = path.with_suffix(".safetensors"), path.with_suffix(".json")
        stored, told = json.loads(text.read_text()), hostile.metadata(weights)
        if change:
            stored["card"] = change(stored["card"])
            told = {"card": json.dumps(stored["card"])}
            save_file(load_file(weights), weights, told)
        if of_tensors:
            of_tensors(weights)
        text.write_text(json.dumps(stored | {"sha256": sha256(weights)}))

    return forge


def rewritten(change, dump=json.dumps):
    """A document that is changed as it lies there."""
    return lambda path: path.write_text(dump(change(json.loads(path.read_text()))))


def test_networks(network, serves_the_same, put_to_test):
    content = json.loads((network / "network.json").read_text())
    for suffix, seed in (("safetensors", 1), ("json", 2)):
        cases = hostile.damages(seed)
        put_to_test("network", network, f"network.{suffix}", cases, load_network, serves_the_same, named="network")
    cases = {name: hostile.holds(text) for name, text in hostile.JSON_TEXTS.items()}
    cases |= {name: rewritten(change) for name, change in hostile.documents(content, 3, 60).items()}
    put_to_test("network", network, "network.json", cases, load_network, serves_the_same)


def test_networks_whose_hashes_were_made_to_fit(network, serves_the_same, put_to_test):
    content, weights = json.loads((network / "network.json").read_text()), network / "network.safetensors"
    cards = hostile.documents(content["card"], 4, 60)
    cases = {f"card {name}": sealed_network(change) for name, change in cards.items()}
    made_up = {name: hostile.holds(header) for name, header in hostile.HEADERS.items()}
    damaged = {f"weights {name}": change for name, change in hostile.damages(5, 4).items() if "link" not in name}
    some = {name: each for name, each in (made_up | damaged).items() if not {"huge", "a pipe", "a folder"} & {name[8:]}}
    cases |= {name: sealed_network(of_tensors=change) for name, change in some.items()}
    cases |= {n: sealed_network(of_tensors=change) for n, change in hostile.tensors(weights, 6, 26).items()}

    def right(served):
        return serves_the_same(served, any_card=True)  # classes and what is told of them may be named anew

    put_to_test("network", network, "network.json", cases, load_network, right, named="network")


# -------------------------------------------------------------------- ONNX


def sealed_model(change):
    """A model changed, and its SHA-256 made to fit."""

    def forge(path):
        model = onnx.load(path)
        change(model)
        content = model.SerializeToString()
        seals = [json.loads(each.value) for each in model.metadata_props if each.key == "sha256"]
        path.write_bytes(sealed(content, *seals))

    return forge


def of_metadata(change):
    """A change of the metadata, as of the document that they are."""

    def forge(model):
        told = change({each.key: json.loads(each.value) for each in model.metadata_props})
        del model.metadata_props[:]
        for name, value in told.items():
            text = json.dumps(value, ensure_ascii=True)
            model.metadata_props.add(key=str(name), value=text)

    return sealed_model(forge)


def computes(make):
    """Nodes of another graph, whose last output is `logits`; `make` has constants for them, by name."""

    def forge(model):
        nodes, constants = make()
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(onnx.helper.make_node(*node, **options) for *node, options in nodes)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(v.numpy(), n) for n, v in constants.items())

    return sealed_model(forge)


def external(model):
    first = model.graph.initializer[0]
    first.ClearField("raw_data")
    first.data_location = onnx.TensorProto.EXTERNAL
    first.external_data.add(key="location", value="../../../../../../etc/passwd")


def unlike_its_shape(model):
    model.graph.initializer[0].dims[:] = [10**6, 10**6]


def not_a_number(model):
    first = next(each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    first.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(first) * float("nan"), first.name))


def fewer_logits(model):
    model.graph.node.append(onnx.helper.make_node("Identity", [model.graph.output[0].name], ["few"]))
    model.graph.output[0].name = "few"


MEAN = [("Cast", ["images"], ["x"], {"to": 1}), ("ReduceMean", ["x"], ["m"], {"axes": [1, 2, 3], "keepdims": 0})]
GRAPHS = {  # what makes much of nothing
    "a constant of 2 GB": lambda: (
        [*MEAN, ("ConstantOfShape", ["s"], ["big"], {}), ("Add", ["m", "big"], ["logits"], {})],
        {"s": torch.tensor([5 * 10**8])},
    ),
    "a range": lambda: (
        [*MEAN, ("Range", ["a", "b", "c"], ["big"], {}), ("Add", ["m", "big"], ["logits"], {})],
        {"a": torch.tensor(0.0), "b": torch.tensor(1e12), "c": torch.tensor(1.0)},
    ),
    "tiles": lambda: (
        [("Cast", ["images"], ["x"], {"to": 1}), ("Tile", ["x", "s"], ["logits"], {})],
        {"s": torch.tensor([1, 10**4, 10**4, 1])},
    ),
    "an outer product": lambda: (
        [*MEAN, ("Add", ["one", "other"], ["big"], {}), ("Add", ["m", "big"], ["logits"], {})],
        {"one": torch.zeros(50_000, 1), "other": torch.zeros(1, 50_000)},
    ),
    "a matrix product": lambda: (
        [*MEAN, ("MatMul", ["one", "other"], ["big"], {}), ("Add", ["m", "big"], ["logits"], {})],
        {"one": torch.zeros(50_000, 1), "other": torch.zeros(1, 50_000)},
    ),
    "padding": lambda: (
        [
            ("Cast", ["images"], ["x"], {"to": 1}),
            ("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]}),
            ("Conv", ["t", "w"], ["logits"], {"pads": [30_000] * 4, "kernel_shape": [1, 1]}),
        ],
        {"w": torch.zeros(1, 1, 1, 1)},
    ),
    "a loop": lambda: ([("Loop", ["n", "", ""], ["logits"], {})], {"n": torch.tensor(10**12)}),
    "nothing": lambda: ([], {}),
    "an operator of another domain": lambda: ([("Shell", ["images"], ["logits"], {"domain": "evil"})], {}),
    "logits of the images' shape": lambda: ([("Cast", ["images"], ["logits"], {"to": 1})], {}),
}
MODELS = {
    "weights elsewhere": external,
    "weights of another shape": unlike_its_shape,
    "weights that are no numbers": not_a_number,
    "another output": fewer_logits,
    "no output": lambda model: model.graph.output.pop(),
    "two inputs": lambda model: model.graph.input.append(model.graph.input[0]),
    "no metadata": lambda model: model.metadata_props.__delitem__(slice(None)),
    "a key twice": lambda model: model.metadata_props.add(key="classes", value='["a"]'),
    "a node less": lambda model: model.graph.node.pop(),
    "a node of no operator": lambda model: setattr(model.graph.node[0], "op_type", "\n\x1b[2J"),
    "another version of operators": lambda model: setattr(model.opset_import[0], "version", 2**40),
}


def test_onnx_files(network, serves_the_same, put_to_test):
    told = {each.key: json.loads(each.value) for each in onnx.load(network / "network.onnx").metadata_props}
    cases = hostile.damages(7, 40)
    cases |= {f"card {name}": of_metadata(change) for name, change in documents_in_utf8(told, 8, 40).items()}
    cases |= {name: sealed_model(change) for name, change in MODELS.items()}
    cases |= {name: computes(make) for name, make in GRAPHS.items()}

    def right(served):
        return serves_the_same(served, any_card=True)

    put_to_test("onnx", network, "network.onnx", cases, eas.load, right)


def documents_in_utf8(*arguments):
    """Without names that ONNX cannot hold."""
    return {name: change for name, change in hostile.documents(*arguments).items() if "ud800" not in name}


# -------------------------------------------------------------------- kits


def serve(folder):
    """A kit, and a network of it."""
    kit = eas.load_kit(folder)
    return kit, *kit.specialize("arrows", 5e5)


@pytest.fixture(scope="module")
def kit_serves_the_same(kit, place, dataset):
    images = dataset.test.images[:20].float() / 255

    def says(served):
        with torch.inference_mode():
            return served[1](images)

    first = serve(place / "kit")
    answers = says(first)
    return lambda served: served[2] == first[2] and torch.equal(says(served), answers)


def relisted(change, name):
    """A change of a kit's file, which kit.json then lists as it is."""

    def forge(path):
        change(path)
        content = json.loads((path.parents[len(Path(name).parts) - 1] / "kit.json").read_text())
        for part in content["files"].values():
            if part["path"] == name:
                part["sha256"] = sha256(path)
        (path.parents[len(Path(name).parts) - 1] / "kit.json").write_bytes(hostile.json_seal(content))

    return forge


PATHS = ["../kit/images.safetensors", "/etc/passwd", "a/../images.safetensors", "loop/x", "there\0", "x" * 5000]
PATHS += ["images.safetensors/", ".", "\x1b[2J", "~/images.safetensors", "kit.json", "link", "pipe", "CON", "\ud800"]


def listing(path_of_images):
    """kit.json lists another path for its images, among links and a pipe that lead astray."""

    def forge(path):
        (path.parent / "loop").symlink_to("loop")
        (path.parent / "link").symlink_to("/etc/passwd")
        os.mkfifo(path.parent / "pipe")
        content = json.loads(path.read_text())
        content["files"]["images"]["path"] = path_of_images
        path.write_bytes(hostile.json_seal(content))

    return forge


def test_kits(kit, place, kit_serves_the_same, put_to_test):
    content = json.loads((place / "kit" / "kit.json").read_text())
    del content["seal"]
    load, right = lambda path: serve(path.parent), kit_serves_the_same
    cases = hostile.damages(9, 30) | {name: hostile.holds(text) for name, text in hostile.JSON_TEXTS.items()}
    for name, change in hostile.documents(content, 10, 30).items():
        cases[name] = rewritten(lambda whole, c=change: c({k: v for k, v in whole.items() if k != "seal"} | whole))
    put_to_test("kit", place / "kit", "kit.json", cases, load, right, named="")
    cases = {f"path {path[:20]!a}": listing(path) for path in PATHS}
    for name, change in hostile.documents(content, 11, 60).items():
        cases[f"sealed {name}"] = lambda path, c=change: path.write_bytes(hostile.json_seal(c(content)))
    any_kit = lambda served: served[2].madds <= 5e5  # noqa: E731 (another list is another kit)
    put_to_test("kit", place / "kit", "kit.json", cases, load, any_kit, named="")


@pytest.mark.parametrize("name", sorted({path for path, _ in FILES.values()}))
def test_files_of_kits(kit, place, kit_serves_the_same, put_to_test, name):
    folder, up = place / "kit", len(Path(name).parts) - 1
    load = lambda path: serve(path.parents[up])  # noqa: E731
    cases = {f"damaged {case}": change for case, change in hostile.damages(12, 6).items()}
    put_to_test("file of a kit", folder, name, cases, load, kit_serves_the_same, named="")
    some = {case: hostile.holds(header) for case, header in hostile.HEADERS.items()}
    some |= hostile.tensors(folder / name, 13, 13)
    cases = {f"listed {case}": relisted(change, name) for case, change in some.items()}
    put_to_test("file of a kit", folder, name, cases, load, kit_serves_the_same, named="")


# -------------------------------------------------------------------- studies and superclasses


@pytest.fixture(scope="module")
def studies(place):
    """A folder with a study of its own, and with a params.yaml that has it."""
    tiny = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]["tiny"]
    (place / "studies").mkdir()
    (place / "studies" / "mine.yaml").write_text(yaml.safe_dump(tiny))
    (place / "studies" / "params.yaml").write_text(yaml.safe_dump({"studies": {"tiny": tiny}}))
    return place / "studies"


def says_what_it_says(path):
    """The study in a file, and what the file says to a reader of YAML who knows nothing of studies."""
    study = load_study(path.name, path.parent) if path.stem == "mine" else load_study("tiny", path.parent)
    content = yaml.safe_load(path.read_text())
    return study, content if path.stem == "mine" else content["studies"]["tiny"]


def is_that_study(found):
    study, content = found
    told = json.loads(study.model_dump_json(exclude_unset=True))
    del told["name"]
    return told == json.loads(json.dumps(content))


@pytest.mark.parametrize("name", ["mine.yaml", "params.yaml"])
def test_studies(studies, put_to_test, name):
    content = yaml.safe_load((studies / name).read_text())
    cases = hostile.damages(14) | {case: hostile.holds(text) for case, text in hostile.YAML_TEXTS.items()}
    for case, change in hostile.documents(content, 15, 40).items():
        cases[case] = lambda path, c=change: path.write_text(yaml.safe_dump(c(content)))
    named = name if name == "mine.yaml" else ""  # 'no params.yaml in' its folder
    put_to_test("study", studies, name, cases, says_what_it_says, is_that_study, named=named)


@pytest.fixture(scope="module")
def shop(place):
    """Photographs of six classes, and a file of their superclasses."""
    draw_shop(place / "shops" / "shop", count=5)
    (place / "shops" / "groups.yaml").write_text(
        "fruit: [apple, pear]\nmilk: {whole: fresh, kefir: kefir}\nbread: [rye, toast]\n"
    )
    return place / "shops"


def groups_of(path):
    """The hierarchy by a file, and the file's mapping."""
    fields = {"image_size": 16, "selection": 0.2, "calibration": 0.2, "seed": 0, "test": 0.2}
    source = Folder(train="shop", superclasses=path.name, **fields)
    return source.hierarchy(path.parent), yaml.safe_load(path.read_text())


def is_that_hierarchy(found):
    hierarchy, content = found
    names = {str(s): [*map(str, c.values() if isinstance(c, dict) else c)] for s, c in content.items()}
    return dict(zip(hierarchy.superclasses, map(list, hierarchy.members), strict=True)) == names


def test_superclasses(shop, put_to_test):
    content = yaml.safe_load((shop / "groups.yaml").read_text())
    cases = hostile.damages(16) | {case: hostile.holds(text) for case, text in hostile.YAML_TEXTS.items()}
    for case, change in hostile.documents(content, 17, 40).items():
        cases[case] = lambda path, c=change: path.write_text(yaml.safe_dump(c(content)))
    # Of all that is wrong in a folder one error tells, which names the folder's classes.
    put_to_test("superclasses", shop, "groups.yaml", cases, groups_of, is_that_hierarchy, named="")


# -------------------------------------------------------------------- data sets


def resealed(change=None, *, of_tensors=None, key):
    """A file of tensors that somebody changed, and its checksum, which the metadata have under `key`, with it."""

    def forge(path):
        told = json.loads(hostile.metadata(path)[key])
        if of_tensors:
            of_tensors(path)
        content = load_file(path)
        told = change(told) if change else told
        told.pop("checksum", None)
        try:
            told["checksum"] = checksum(content, told)
        except TypeError:  # bfloat16: none that is right
            told["checksum"] = 0
        save_file(content, path, {key: json.dumps(told)})

    return forge


sealed_dataset, sealed_checkpoint = partial(resealed, key="dataset"), partial(resealed, key="progress")


def same_dataset(found, dataset):
    splits = ((getattr(each, name) for each in (found, dataset)) for name in data.SPLITS)
    alike = all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in splits)
    return alike and found.mean == pytest.approx(dataset.mean) and found.hierarchy == dataset.hierarchy


def test_data_sets(dataset, place, put_to_test):
    folder = place / "data"
    folder.mkdir()
    data.save(dataset, folder / "dataset.safetensors")
    told, path = json.loads(hostile.metadata(folder / "dataset.safetensors")["dataset"]), "dataset.safetensors"
    cases = hostile.damages(18, 24) | {case: hostile.holds(header) for case, header in hostile.HEADERS.items()}
    cases |= hostile.tensors(folder / path, 19, 13)
    put_to_test("data set", folder, path, cases, data.load, lambda found: same_dataset(found, dataset))
    cases = {case: sealed_dataset(change) for case, change in documents_in_utf8(told, 20, 40).items()}
    some = hostile.tensors(folder / path, 21, 26)
    cases |= {f"sealed {case}": sealed_dataset(of_tensors=change) for case, change in some.items()}
    cases |= {f"{name} {value}": statistic(name, value) for name in ("mean", "std") for value in (math.nan, math.inf)}

    def right(found):  # what is told of images, and the names of classes, are those that were sealed
        return (
            same_dataset(dataclasses.replace(found, hierarchy=dataset.hierarchy), dataset) and found.hierarchy.classes
        )

    put_to_test("data set", folder, path, cases, data.load, right)


def statistic(name, value):
    def change(path):
        told = hostile.metadata(path)
        save_file(load_file(path) | {name: torch.tensor([value])}, path, told)

    return sealed_dataset(of_tensors=change)


# -------------------------------------------------------------------- latency tables


def test_latency_tables(space, place, put_to_test):
    folder = place / "latency"
    told = {"processor": "a processor", "runtime": "onnxruntime", "version": "1", "threads": 1, "archs": 60}
    told |= {"error": 0.01, "correlation": 0.99, "margin": 0.1, "start": 1e-5, "fixed_madds": 1e-10}
    of_stages = dict.fromkeys(("first_madds", "later_madds", "block"), (1e-10,) * space.stages)
    sizes = {"space": space.recipe, "image_size": space.image_size, "in_channels": space.in_channels}
    table = LatencyTable(**told, **of_stages, **sizes)
    save_latency(table, folder / "table.json")
    content = json.loads((folder / "table.json").read_text())
    del content["seal"]
    load = lambda path: load_latency(path, space)  # noqa: E731
    cases = hostile.damages(22, 30) | {name: hostile.holds(text) for name, text in hostile.JSON_TEXTS.items()}
    cases |= {name: rewritten(change) for name, change in hostile.documents(content, 23, 40).items()}
    put_to_test("latency", folder, "table.json", cases, load, lambda found: found == table)
    cases = {}
    for name, change in hostile.documents(content, 24, 60).items():
        cases[name] = lambda path, c=change: path.write_bytes(hostile.json_seal(c(content)))

    def a_cost(found):  # other numbers are another machine's
        return not total(space, found, space.largest, 10).isnan() and found.name.isprintable()

    put_to_test("latency", folder, "table.json", cases, load, a_cost)


# -------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def checkpoint(space, hierarchy, dataset, place):
    """Makes a checkpoint's object of a fresh supernet; one is saved in a folder."""
    recipe = Training(epochs=3, batch_size=2, learning_rate=0.1, random_subnets=1)

    def fresh(path):
        torch.manual_seed(1)
        supernet = space.supernet(len(hierarchy.classes), dataset.mean, dataset.std)
        return Checkpoint(path, supernet, make_optimizer(supernet, recipe))

    (place / "checkpoint").mkdir()
    made = fresh(place / "checkpoint" / "checkpoint")
    for parameter in made.parameters:
        made.optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    made.save([{"epoch": 1, "loss": 2.5}], 3, 1.5)
    return fresh


def test_checkpoints(checkpoint, place, put_to_test, capfd):
    folder, expected = place / "checkpoint", ([{"epoch": 1, "loss": 2.5}], 3, 1.5)

    def load(path):
        """What is told of a damaged one in a line, as the error that it is not."""
        made = checkpoint(path)
        before = {name: tensor.clone() for name, tensor in made.module.state_dict().items()}
        found, said = made.load(), capfd.readouterr().out
        if found == ([], 0, 0.0) and found != expected:
            assert all(torch.equal(tensor, before[name]) for name, tensor in made.module.state_dict().items())
            assert not made.optimizer.state
            if path.is_file():
                assert said.count("\n") == 1 and said.startswith(f"{path} is no good checkpoint (")
            raise ValueError(said.strip() or f"{path} is none")
        return found

    path = folder / "checkpoint"
    told = json.loads(hostile.metadata(path)["progress"])
    cases = hostile.damages(25, 30) | {case: hostile.holds(header) for case, header in hostile.HEADERS.items()}
    cases |= hostile.tensors(path, 26, 13)
    put_to_test("checkpoint", folder, "checkpoint", cases, load, lambda found: found == expected)
    cases = {case: sealed_checkpoint(change) for case, change in documents_in_utf8(told, 27, 50).items()}
    some = hostile.tensors(path, 28, 26)
    cases |= {f"sealed {case}": sealed_checkpoint(of_tensors=change) for case, change in some.items()}

    def right(found):  # other numbers of the right kind
        history, step, total = found
        return all(math.isfinite(row["loss"]) for row in history) and step >= 0 and math.isfinite(total)

    put_to_test("checkpoint", folder, "checkpoint", cases, load, right)


# -------------------------------------------------------------------- results, here and published


@pytest.mark.parametrize("published", [False, True])
def test_results(studies, place, put_to_test, published):
    folder, study = place / f"results-{published}", load_study("mine.yaml", studies)

    def result(root):
        here = Workspace(study, root / ("empty" if published else "build"), root / "build" if published else None)
        return Result(here, "part/result", "0123456789abcdef")

    made = Result(Workspace(study, folder / "build"), "part/result", "0123456789abcdef")
    record = made.write({"x": torch.arange(100.0)}, {"top1": [70.5, 71.25], "seconds": 12.5, "machine": "a machine"})

    def load(path):
        """A record and its tensors; that there is none, as the error that it is not: it is made again."""
        root = path.parents[2]
        found = result(root).find()
        result(root).fetch()
        if found is None:
            assert result(root).find() is None
            raise ValueError(f"{path} is none")
        try:
            return found, result(root).tensors()["x"]
        except FileNotFoundError:  # too large to be published
            assert published
            return found, torch.arange(100.0)

    def right(found):
        return found[0] == record and torch.equal(found[1], torch.arange(100.0))

    told = json.loads((folder / "build" / "part" / "result.json").read_text())
    cases = hostile.damages(29, 40) | {name: hostile.holds(text) for name, text in hostile.JSON_TEXTS.items()}
    cases |= {name: rewritten(change) for name, change in hostile.documents(told, 30, 40).items()}
    put_to_test("result", folder, "build/part/result.json", cases, load, right, named="build/part")
    cases = hostile.damages(31, 20) | {name: hostile.holds(header) for name, header in hostile.HEADERS.items()}
    put_to_test("result", folder, "build/part/result.safetensors", cases, load, right, named="build/part")


# -------------------------------------------------------------------- weights to start from


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_to_start_from(space, hierarchy, dataset, place, put_to_test, suffix):
    from eas.spaces.published import load as load_weights

    def fresh(seed):
        torch.manual_seed(seed)
        return space.supernet(len(hierarchy.classes), dataset.mean, dataset.std)

    folder, name = place / f"start-{suffix}", f"start.{suffix}"
    folder.mkdir()
    state = {name: tensor.clone() for name, tensor in fresh(3).state_dict().items()}
    if suffix == "pth":
        torch.save({"state_dict": state}, folder / name)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / name)

    def load(path):
        supernet = fresh(4)
        load_weights(supernet, path, "a supernet of this space")
        return supernet

    def right(supernet):  # nobody can tell whether finite numbers were others
        return all(tensor.isfinite().all() for tensor in supernet.state_dict().values())

    cases = hostile.damages(32, 30)
    if suffix == "pth":
        changes = {
            "bomb": hostile.holds(hostile.zipped(bytes(10**8))),
            "a list": lambda path: torch.save([1, 2], path),
            "a tensor": lambda path: torch.save(torch.zeros(2), path),
            "numbers as names": lambda path: torch.save({3: torch.zeros(2)}, path),
            "one value as millions": lambda path: torch.save(
                state | {"stem.weight": torch.zeros(1).expand(10**6, 10**6)}, path
            ),
            "sparse": lambda path: torch.save(state | {"stem.weight": torch.zeros(8, 1, 3, 3).to_sparse()}, path),
            "code": lambda path: torch.save({"state_dict": Runs()}, path),
            "no number": lambda path: torch.save(state | {"norm.bias": state["norm.bias"] * math.nan}, path),
            "of whole numbers": lambda path: torch.save(state | {"norm.bias": state["norm.bias"].long()}, path),
        }
    else:
        changes = hostile.tensors(folder / name, 33, 26)
        changes |= {case: hostile.holds(header) for case, header in hostile.HEADERS.items()}
    put_to_test("start", folder, name, cases | changes, load, right)


class Runs:
    """Runs a command where a pickle of it is read without care."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


# -------------------------------------------------------------------- images


def test_images(network, place, put_to_test):
    served, card = eas.load(network / "network")
    (place / "images").mkdir()
    (place / "images" / "photo.png").write_bytes(hostile.picture("PNG"))
    names = set(card.classes)

    def load(path):
        colour = Photographs([path], 16).decoded()
        assert colour.shape == (1, 3, 16, 16) and read_image(path, card).shape == (1, 1, 16, 16)
        return eas.predict(served, card, [path])[0]

    def right(answer):
        return names <= {name for name, _ in answer} and all(0 <= share <= 1 for _, share in answer)

    cases = {name: hostile.holds(content) for name, content in hostile.image_files().items()}
    cases |= {f"damaged {name}": change for name, change in hostile.damages(34, 30).items()}
    put_to_test("image", place / "images", "photo.png", cases, load, right)


def named(name):
    """Another file of that name beside it."""
    return lambda path: os.rename(shutil.copy(path, path.with_name("more.png")), os.fsencode(path.parent) + b"/" + name)


FOLDERS = {
    "a name of two lines": named(b"two\nlines.png"),
    "a name for a terminal": named(b"\x1b[2J.png"),
    "a name that is no UTF-8": named(b"\xff\xfe.png"),
    "a name of quotes": named(b"'\"$(touch hacked);.png"),
    "a link to itself": lambda path: path.with_name("loop.png").symlink_to("loop.png"),
    "a link to nothing": lambda path: path.with_name("none.png").symlink_to("nothing"),
    "a link to another photograph": lambda path: path.with_name("link.png").symlink_to(path),
    "a link to the folder above": lambda path: path.with_name("above").symlink_to(".."),
    "a link to the root": lambda path: (path.parent.parent / "root").symlink_to("/dev"),
    "a pipe": lambda path: os.mkfifo(path.with_name("pipe.png")),
    "a class without images": lambda path: (path.parent.parent / "empty").mkdir(),
    "a class twice": lambda path: shutil.copytree(path.parent, path.parents[2] / "milk" / "apple"),
    "a class called like a superclass": lambda path: path.parent.rename(path.parent.with_name("milk")),
    "a class of two lines": lambda path: path.parent.rename(path.parent.with_name("a\nb")),
    "a class for a terminal": lambda path: path.parent.rename(path.parent.with_name("\x1b[2J")),
    "text that is called an image": lambda path: path.write_text("hello"),
    "PostScript that is called an image": hostile.holds(hostile.POSTSCRIPT),
    "a bomb": hostile.holds(hostile.png(12_000, 12_000, depth=1)),
    "half an image": hostile.cut_short(0.5),
    "nothing": hostile.holds(b""),
    "an image called text": lambda path: path.rename(path.with_suffix(".txt")),
    "upper case": lambda path: path.rename(path.with_suffix(".PNG")),
}


def test_folders_of_photographs(shop, put_to_test, monkeypatch):
    def load(path):
        root = path.parents[3]
        found = check(root / "shop", to=root / "mine.yaml", start="nothing")
        return found, load_study("mine.yaml", root)

    def right(looked):  # what cannot be read is left out, and named
        found, study = looked
        unreadable = [str(found.path.parent / path) for path in study.data.skip]
        classes = {"apple", "pear", "whole", "kefir", "rye", "toast"}
        return set(found.counts) == classes and all(Photographs([p], 16).unreadable() for p in unreadable)

    put_to_test("photographs", shop, "shop/fruit/apple/0.png", FOLDERS, load, right, named="")


# -------------------------------------------------------------------- memory


def bombs(network, place):
    """What asks for much memory, each as a function that refuses it."""
    served, card = eas.load(network / "network")
    stored = json.loads((network / "network.json").read_text())["card"]
    for name, content in hostile.image_files().items():
        if "bomb" in name or "million" in name or "pixels" in name:
            (place / "bomb.png").write_bytes(content)
            yield name, place / "bomb.png", lambda: eas.predict(served, card, [place / "bomb.png"])
    wide = {"space": stored["space"] | {"widths": [20_000, 20_000]}, "in_channels": 10**9, "image_size": 4096}
    for key, value in wide.items():
        folder = Path(shutil.copytree(network, place / f"bomb-{key}"))
        sealed_network(lambda whole, k=key, v=value: whole | {k: v})(folder / "network.json")
        yield key, folder, lambda folder=folder: eas.load(folder / "network")
    for name, text in hostile.YAML_TEXTS.items():
        if "bomb" in name or name == "large":
            (place / "bomb.yaml").write_bytes(text)
            yield name, place / "bomb.yaml", lambda: load_study("bomb.yaml", place)
    for name, make in GRAPHS.items():
        folder = Path(shutil.copytree(network, place / f"graph-{len(name)}-{name[:5]}"))
        computes(make)(folder / "network.onnx")
        yield name, folder, lambda folder=folder: eas.load(folder / "network.onnx")


def test_what_asks_for_much_memory_is_refused_where_there_is_a_gigabyte(network, tmp_path):
    cases, (reads, writes) = [*bombs(network, tmp_path)], os.pipe()
    child = os.fork()
    if child == 0:
        died = 1
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = int(pages * resource.getpagesize() + BYTES)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            told = [(name, *wrong_with(load, lambda _: False, path)) for name, path, load in cases]
            lines = [f"{name}: {wrong}" for name, _, wrong in told if wrong]
            os.write(writes, "\n".join([*lines, f"{len(told)} were tried"]).encode())
            died = 0
        finally:
            os._exit(died)
    os.close(writes)
    with os.fdopen(reads) as file:
        assert file.read() == f"{len(cases)} were tried"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -------------------------------------------------------------------- whatever else there is

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)


def refused_or(load, right, path):
    ended, wrong = wrong_with(load, right, path)
    assert not wrong, (ended, wrong)


@QUICK
@given(data=st.data())
def test_any_card(network, serves_the_same, tmp_path, data):
    """Any values in the place of any others: a card that is read is what it says, and serves the same weights."""
    folder = Path(shutil.copytree(network, tmp_path / "copy", dirs_exist_ok=True))
    stored = json.loads((network / "network.json").read_text())
    path, value = data.draw(st.sampled_from(hostile.places(stored["card"]))), data.draw(VALUES)

    def change(whole):
        at = whole
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return whole

    sealed_network(change)(folder / "network.json")

    def right(served):
        told = change(json.loads(json.dumps(stored["card"])))
        same = served[1] == Card.model_validate_json(json.dumps(told))
        return same and serves_the_same(served, any_card=True)

    refused_or(lambda: eas.load(folder / "network"), right, folder / "network")


@QUICK
@given(value=VALUES | st.text(max_size=200), data=st.data())
@example(value="a: &a [*a]", data=None)
def test_any_study(studies, tmp_path, value, data):
    """Any text, and any values in the place of those of a study."""
    content = yaml.safe_load((studies / "mine.yaml").read_text())
    if isinstance(value, str):
        (tmp_path / "mine.yaml").write_bytes(value.encode(errors="surrogatepass"))
    else:
        content[data.draw(st.sampled_from(sorted(content)))] = value
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    refused_or(
        lambda: load_study("mine.yaml", tmp_path), lambda study: isinstance(study, Study), tmp_path / "mine.yaml"
    )


LOADERS = {
    "network.onnx": eas.load,
    "dataset.safetensors": data.load,
    "photo.png": lambda path: read_image(path, Card.model_construct(in_channels=3, image_size=16)),
    "branches.safetensors": lambda path: read_tensors(path)[0],
    "groups.yaml": lambda path: Folder(
        train="x", test=0.2, superclasses=path.name, image_size=16, selection=0.2, calibration=0.2, seed=0
    ).hierarchy(path.parent),
}
MAGIC = {
    "photo.png": [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"P6"]
}


@pytest.mark.parametrize("name", LOADERS)
@QUICK
@given(content=st.binary(max_size=300), magic=st.integers(0, 7))
def test_any_bytes(tmp_path, name, content, magic):
    (tmp_path / "x" / "a" / "b").mkdir(parents=True, exist_ok=True)
    path = tmp_path / name
    path.write_bytes(MAGIC.get(name, [b""] * 8)[magic] + content)
    refused_or(lambda: LOADERS[name](path), lambda found: name == "photo.png", path)


def test_there_are_enough_cases(request):
    """Of all kinds, where this module is run as a whole."""
    asked = {item.originalname for item in request.session.items if item.path == request.path}
    if asked != {name for name in globals() if name.startswith("test_")}:
        pytest.skip("not all tests of this module were asked for")
    assert {kind for kind, _ in COUNTED} == KINDS
    assert sum(COUNTED.values()) >= 2000
