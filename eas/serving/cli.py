"""The command `eas`: specialise a kit for your classes and budget, and say what image files show.

`python -m eas` has what needs no training; the study adds the commands that train (pipeline.cli).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

Commands = Any  # what argparse's add_subparsers returns, whose class has no public name
COMPARED = 32  # images that an exported network is compared on
EXIT = "exit codes: 0 done, 1 an error, which is one line, 130 stopped by Ctrl-C"


class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, as all errors
        raise ValueError(f"{message}; see {self.prog} --help")


def parser(add_first: Callable[[Commands], None] | None = None) -> Parser:
    main = Parser(prog="eas", description="Networks for exactly your classes and your budget.", epilog=EXIT)
    commands = main.add_subparsers(required=True, metavar="command")
    if add_first:
        add_first(commands)
    kit = {"help": "a study's YAML file, a folder with a kit.json, or the name of a kit that comes along: cifar100"}
    make = commands.add_parser("specialize", help="write a network for some classes under a budget; takes a second")
    make.add_argument("kit", **kit)
    make.add_argument("names", nargs="+", metavar="name", help="superclasses and classes to tell apart")
    make.add_argument("--madds", help="the most multiply-adds, such as 20M or 20e6")
    make.add_argument("--parameters", help="the most parameters, likewise; a parameter takes four bytes")
    make.add_argument("--ms", type=float, help="the most milliseconds an image, here or by the table --latency")
    make.add_argument("--latency", metavar="FILE", help="of another machine, as `eas latency --to` writes it there")
    runs(make)
    make.add_argument(
        "--top1", type=float, metavar="PERCENT", help="in place of these: the cheapest expected to reach it"
    )
    make.add_argument("--no-strangers", action="store_true", help="do not tell images of none of the classes")
    make.add_argument("--to", metavar="PATH", help="of the files, without .safetensors and .json (default: the names)")
    make.add_argument("--onnx", action="store_true", help="also write PATH.onnx, for runtimes without torch")
    make.add_argument("--int8", action="store_true", help="also write PATH.int8.onnx, in 8-bit integers")
    make.set_defaults(run=specialize)
    say = commands.add_parser("predict", help="say what image files show")
    say.add_argument("path", help="of a specialised network: as given to specialize --to, or its .onnx file")
    say.add_argument("images", nargs="+", metavar="image", help="files; the centre of each is looked at")
    say.set_defaults(run=predict)
    prove = commands.add_parser("verify", help="check that an exported network does here what it did where it was made")
    prove.add_argument("path", help="of the .onnx file; a .safetensors file beside it is compared with")
    prove.add_argument("images", nargs="*", metavar="image", help="files to compare on, beside those of its own check")
    prove.set_defaults(run=verify)
    time = commands.add_parser("latency", help="measure how long a kit's networks take on this machine; about a minute")
    time.add_argument("kit", **kit)
    runs(time)
    time.add_argument("--to", metavar="FILE", help="where else to write the table, for other machines to read")
    time.set_defaults(run=measure_latency)
    show = commands.add_parser("list", help="show a kit's superclasses, classes and budgets")
    show.add_argument("kit", **kit)
    show.set_defaults(run=list_kit)
    return main


def runs(command: Parser) -> None:
    """Add the options that say how networks are run."""
    command.add_argument("--runtime", help="onnxruntime (default), onnxruntime-int8 or torch")
    command.add_argument("--threads", type=int, help="that run one (default: 1)")


def budget(text: str, option: str = "--madds") -> float:
    """A number of multiply-adds or parameters, M for millions; ValueError, in one line, where it cannot be meant."""
    number, millions = (text[:-1], 1e6) if text[-1:] in ("M", "m") else (text, 1)
    try:
        most = float(number) * millions
    except ValueError:
        raise ValueError(f"{option} {text}: a number such as 20M or 20e6 is needed") from None
    if not 0 < most < math.inf:
        raise ValueError(f"{option} {text}: a budget must be above zero and finite")
    what, least = {"--madds": ("multiply-adds", 1e4), "--parameters": ("parameters", 100)}[option]
    if most < least and millions == 1:
        raise ValueError(f"{option} {text}: that few {what} are no network; did you mean {text}M?")
    return most


def how_run(options: argparse.Namespace) -> dict[str, Any]:
    """What `runs` was told, as latency_table takes it."""
    return {name: told for name in ("runtime", "threads") if (told := getattr(options, name)) is not None}


def require_meaning(options: argparse.Namespace) -> None:
    """ValueError, before any work, for options of `specialize` that say too little, or what nothing would come of."""
    if options.top1 is None and not (options.madds or options.parameters or options.ms is not None):
        raise ValueError("say how large it may be: --madds, --parameters or --ms, or --top1 for what it has to reach")
    if options.top1 is not None and (options.madds or options.parameters or options.ms is not None):
        raise ValueError("--top1 asks for the cheapest network: leave --madds, --parameters and --ms out")
    if options.ms is None and (options.latency or how_run(options)):
        raise ValueError("--latency, --runtime and --threads are of the bound --ms, which is missing")
    if options.ms is not None and not 0 < options.ms < math.inf:
        raise ValueError(f"--ms {options.ms:g}: must be above zero and finite")
    if options.latency and how_run(options):
        raise ValueError("a table --latency was measured with its own runtime and threads: leave these out")
    if options.onnx or options.int8:
        from eas.serving.onnx_files import require

        require("onnx", *["onnxruntime"] * options.int8)


def bounds_of(options: argparse.Namespace, kit) -> list[tuple[Any, float]]:
    """What is asked of other costs than multiply-adds."""
    from eas.costs import PARAMETERS
    from eas.serving.latency import latency_table, load_latency

    bounds = [(PARAMETERS, budget(options.parameters, "--parameters"))] if options.parameters else []
    if options.ms is None:
        return bounds
    space = kit.supernet.space
    table = load_latency(options.latency, space) if options.latency else latency_table(space, **how_run(options))
    return [*bounds, (table, options.ms * table.scale)]


def specialize(options: argparse.Namespace) -> None:
    from eas import devices, export_onnx, load_kit
    from eas.serving import deploy

    require_meaning(options)
    madds, path = budget(options.madds) if options.madds else None, options.to
    path = path or "+".join(options.names).replace("/", "-")
    devices.keep_memory()  # calibration, which is nearly all of the time, takes a third of it then
    kit = load_kit(options.kit)
    class_mask = kit.hierarchy.class_mask(options.names)
    bounds = bounds_of(options, kit)
    network, card = kit.specialize(
        options.names, madds, top1=options.top1, bounds=bounds, refuse=not options.no_strangers
    )
    card = kit.tested(network, card)
    weights = deploy.save(network, card, path)
    if options.onnx:
        print(f"wrote {export_onnx(network, card, path)}{proven(network, f'{path}.onnx', kit, card)}")
    if options.int8:
        print(write_int8(network, card, kit, path))
    costs = f"{card.madds / 1e6:.4g}M multiply-adds, {card.parameters:,} parameters"
    print(f"wrote {weights} ({weights.stat().st_size / 1e6:.2f} MB, {costs}) for {', '.join(card.classes)}")
    for bound in card.bounds:
        print(f"{bound.cost}: {bound.told:.4g} {bound.unit}, at most {bound.most:.4g} were asked for")
    if card.expected_top1:
        print("expected: {:.1f} % top-1 [{:.1f}, {:.1f}]".format(*card.expected_top1))
    if card.test:
        print(told(card))
    if card.strangers is None and not options.no_strangers and not class_mask.all():
        print("none of these: is never said, for want of images of these classes that nothing was trained on")
    branches = ", ".join(kit.branches_for(class_mask))
    print(f"weights: {f'superclass branches ({branches})' if branches else 'shared by all classes'}")


def images_for(card, kit, count: int):
    """So many of a kit's images of a network's classes, of its size."""
    import torch

    from eas.serving.deploy import in_turn
    from eas.spaces.supernet import resized

    own = torch.tensor([name in card.classes for name in kit.hierarchy.classes])
    return resized(in_turn(kit.branch_images, count, own).images, card.image_size)


def write_int8(network, card, kit, path: str) -> str:
    """Write the network in 8-bit integers, with a card of its own; what it takes and reaches, in words."""
    from eas import export_onnx, load
    from eas.serving.onnx_files import OnnxNetwork, as_onnx, session_of, write_card
    from eas.serving.quantize import CALIBRATED
    from eas.serving.verify import milliseconds

    images = images_for(card, kit, CALIBRATED)
    written = export_onnx(network, card, f"{path}.int8", int8=images)
    write_card(tested := kit.tested(*load(written)), written)
    exact = as_onnx(network, card.in_channels, card.image_size)
    both = (OnnxNetwork(session_of(content, 1)) for content in (written.read_bytes(), exact))
    small, large = (milliseconds(each, images[:1]) for each in both)
    gains = "" if small < 0.95 * large else ": this processor gains nothing"
    said = [f"wrote {written} ({written.stat().st_size / 1e6:.2f} MB, {small:.3g} ms, in floats {large:.3g}{gains})"]
    if tested.test:
        said.append(f"in 8-bit integers: {told(tested)}")
    return "\n".join(said)


def proven(network, path: str, kit, card) -> str:
    """That a file says what the network does, on images of its classes; ValueError where it does not."""
    from eas import load
    from eas.serving.verify import MOST_OFF, largest_difference

    if find_spec("onnxruntime") is None:
        return " (not run: the package onnxruntime is missing)"
    images = images_for(card, kit, COMPARED)
    off = largest_difference(load(path)[0], network, images)
    if not off <= MOST_OFF:
        os.unlink(path)
        raise ValueError(f"{path} did not say what the network does, and was deleted: logits differ by {off:.2g}")
    return f": on {len(images)} images its logits are the network's, {off:.0e} apart at most"


def verify(options: argparse.Namespace) -> None:
    from eas.serving.verify import verify as found_of

    found = found_of(options.path, options.images)
    print(f"as exported: on its own check the logits are {found.as_exported:.0e} apart at most")
    if found.as_saved is not None:
        saved = options.path.removesuffix(".onnx") + ".safetensors"
        print(f"as {saved}: on {found.images} images they are {found.as_saved:.0e} apart at most")
    print(f"an image takes {found.ms:.3g} ms on one thread")


def told(card) -> str:
    """What test images said of a network, in a line or two."""
    pairs = "; ".join(f"{name} taken for {other} ({times})" for name, other, times in card.test.confused)
    confused = f"; most confused: {pairs}" if pairs else ""
    said = "test: {:.1f} % top-1 [{:.1f}, {:.1f}]".format(*card.test.top1) + f" of {card.test.images} images{confused}"
    if not card.strangers or card.strangers.refused_others is None:
        return said
    own, others = card.strangers.refused_own, card.strangers.refused_others
    return f"{said}\nnone of these: said of {others:.1f} % of other classes' images, and of {own:.1f} % of its own"


def predict(options: argparse.Namespace) -> None:
    from eas import load
    from eas import predict as answers_to

    network, card = load(options.path)
    for path, answers in zip(options.images, answers_to(network, card, options.images), strict=True):
        print(f"{path}  {' | '.join(f'{name} {share:.2f}' for name, share in answers[:3])}")


def measure_latency(options: argparse.Namespace) -> None:
    from eas import load_kit
    from eas.serving.latency import latency_table, save_latency

    space = load_kit(options.kit).supernet.space
    table = latency_table(space, **how_run(options), again=True)
    if options.to:
        save_latency(table, options.to)
    ends = (float(table.seconds(space, arch, 10)) * 1e3 for arch in (space.smallest, space.largest))
    print(f"{table.name}")
    print("an image takes {:.3g} to {:.3g} ms".format(*ends) + f", told from {table.archs} measured networks")
    print(f"error {100 * table.error:.1f} %, rank correlation {table.correlation:.3f} on networks it was not fitted on")
    if options.to or table.path().is_file():
        print(f"written: {options.to or table.path()}")


def list_kit(options: argparse.Namespace) -> None:
    from eas import load_kit

    kit = load_kit(options.kit)
    for superclass, members in zip(kit.hierarchy.superclasses, kit.hierarchy.members, strict=True):
        print(f"{superclass}: {', '.join(members)}")
    if table := overview(kit):
        print(table)
    space = kit.supernet.space
    ends = space.madds(space.smallest, 1), space.madds(space.largest, len(kit.hierarchy.classes))
    low, high, least, most = (f"{float(madds) / 1e6:.4g}M" for madds in (*kit.generator.budget_range, *ends))
    print(f"budgets: {low} to {high} multiply-adds are what it was made for; its networks need {least} to {most}")


def overview(kit) -> str:
    """What a kit's networks of every superclass are expected to reach, in a table; empty if unknown."""
    if kit.expected is None:
        return ""
    import torch

    madds, names = torch.linspace(*kit.generator.budget_range.tolist(), 4), kit.hierarchy.superclasses
    width = max(map(len, names))
    lines = [f"{'expected top-1 (%)':{width}}  " + "  ".join(f"{cost / 1e6:6.3g}M" for cost in madds.tolist())]
    for name in names:
        reached = kit.expected_top1(kit.hierarchy.class_mask([name]), madds)[:, 0]
        lines.append(f"{name:{width}}  " + "  ".join(f"{each:7.1f}" for each in reached.tolist()))
    return "\n".join(lines)


def main(arguments: list[str] | None = None, add_first: Callable[[Commands], None] | None = None) -> int:
    """Run a command; an error is one line. `add_first` adds commands of others before those of this module."""
    try:
        options = parser(add_first).parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, as `head`, has enough; nothing is left to be written at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportError, OSError, RuntimeError, ValueError) as err:
        print(f"error: {' '.join(str(err).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped{': the same command goes on from here' if 'goes_on' in options else ''}", file=sys.stderr)
        return 130
    return 0
