"""A kit of untrained parts that answer this and that, in Python and as a folder."""

import torch

from eas.branches import stored, tuned_names
from eas.evaluation import SharedStem
from eas.files import write_tensors
from eas.generator import Generator
from eas.serving import cli
from eas.serving.deploy import in_turn
from eas.serving.kit import Kit
from eas.serving.kit_files import write_images, write_kit

COUNT = 60  # calibration images of the shared weights
FILES = {  # two modules in one file, the others in files of their own
    "supernet": ("parts/models.safetensors", "supernet."),
    "generator": ("parts/models.safetensors", "generator."),
    "images": ("images.safetensors", ""),
    "branches": ("branches.safetensors", ""),
}


@torch.no_grad()
def make_kit(supernet, dataset):
    """A kit without branches; the supernet becomes as if trained: no fresh values, and not one answer to all images."""
    torch.manual_seed(1)
    for parameter in supernet.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    calibration, space = in_turn(dataset.calibration, COUNT), supernet.space
    logits = SharedStem(supernet, space.largest[None], calibration, dataset.selection).logits(space.largest)
    supernet.classifier.bias.sub_(logits.mean(0))
    generator = Generator(space, len(dataset.hierarchy.classes), torch.tensor([3e5, 6e5]))
    return Kit(dataset.hierarchy, supernet, generator, None, calibration, dataset.calibration, synthetic=True)


def write_branches(kit, path):
    """Branches that differ from the shared weights, and from one another."""
    state, branches = kit.supernet.state_dict(), {}
    for index in range(10):
        for name in tuned_names(kit.supernet, "norms"):
            branches |= stored(f"{index}.{name}", torch.full_like(state[name], 0.1 * (index + 1)))
    write_tensors(branches, path)


def write_tiny_kit(folder, kit, dataset):
    """The same kit as a folder, with branches."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = {"supernet": kit.supernet, "generator": kit.generator}
    states = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    write_tensors(states, folder / FILES["supernet"][0])
    write_branches(kit, folder / FILES["branches"][0])
    write_images(dataset, folder / FILES["images"][0], "calibration")
    files = dict(FILES)
    if kit.expected:
        write_tensors(vars(kit.expected), folder / "expected.safetensors")
        files["expected"] = ("expected.safetensors", "")
    write_kit(folder, kit.generator, COUNT, files)
    return folder


def run(*arguments):
    """What a user types behind `eas`; its exit code."""
    return cli.main([str(each) for each in arguments])
