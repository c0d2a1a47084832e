"""The command `eas`, or `python -m eas`: specialise a kit for your classes and budget, and classify image files."""

from __future__ import annotations

import argparse
import math
import sys


class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, as all errors
        raise ValueError(f"{message}; see {self.prog} --help")


def parser() -> Parser:
    main = Parser(prog="eas", description="Networks for exactly your classes and your budget, from one trained kit.")
    commands = main.add_subparsers(required=True, metavar="command")
    kit = {"help": "a folder with a kit.json, or the name of one under weights/: cifar100"}
    make = commands.add_parser("specialize", help="write a network for some classes under a budget")
    make.add_argument("kit", **kit)
    make.add_argument("names", nargs="+", metavar="name", help="superclasses and classes to tell apart")
    wanted = make.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--madds", help="budget of multiply-adds, such as 20M or 20e6")
    wanted.add_argument(
        "--top1", type=float, metavar="PERCENT", help="the cheapest network that is expected to reach it"
    )
    make.add_argument("--to", required=True, metavar="PATH", help="of the files, without .safetensors and .json")
    make.add_argument("--onnx", action="store_true", help="also write PATH.onnx, for runtimes without torch")
    make.set_defaults(run=specialize)
    say = commands.add_parser("classify", help="say what image files show")
    say.add_argument("path", help="of a specialised network, as given to specialize --to")
    say.add_argument("images", nargs="+", metavar="image", help="files; the centre of each is looked at")
    say.set_defaults(run=classify)
    show = commands.add_parser("list", help="show a kit's superclasses, classes and budgets")
    show.add_argument("kit", **kit)
    show.set_defaults(run=list_kit)
    return main


def budget(text: str) -> float:
    """A number of multiply-adds, M for millions; ValueError, in one line, where it cannot be meant."""
    number, millions = (text[:-1], 1e6) if text[-1:] in ("M", "m") else (text, 1)
    try:
        madds = float(number) * millions
    except ValueError:
        raise ValueError(f"--madds {text}: a number such as 20M or 20e6 is needed") from None
    if not 0 < madds < math.inf:
        raise ValueError(f"--madds {text}: a budget must be above zero and finite")
    if madds < 1e4 and millions == 1:
        raise ValueError(f"--madds {text}: that few multiply-adds are no network; did you mean {text}M?")
    return madds


def specialize(options: argparse.Namespace) -> None:
    from eas import deploy, devices, load_kit

    madds = budget(options.madds) if options.madds else None
    devices.keep_memory()  # calibration, which is nearly all of the time, takes a third of it then
    kit = load_kit(options.kit)
    network, card = kit.specialize(options.names, madds, top1=options.top1)
    if options.onnx:
        print(f"wrote {deploy.export_onnx(network, card, options.to)}")
    weights = deploy.save(network, card, options.to)
    costs = f"{card.madds / 1e6:.4g}M multiply-adds, {card.parameters:,} parameters"
    print(f"wrote {weights} ({weights.stat().st_size / 1e6:.2f} MB, {costs}) for {', '.join(card.classes)}")
    if card.expected_top1:
        print("expected: {:.1f} % top-1 [{:.1f}, {:.1f}]".format(*card.expected_top1))
    branches = ", ".join(kit.branches_for(kit.hierarchy.class_mask(options.names)))
    print(f"weights: {f'superclass branches ({branches})' if branches else 'shared by all classes'}")


def classify(options: argparse.Namespace) -> None:
    from eas import deploy

    network, card = deploy.load(options.path)
    for path, answers in zip(options.images, deploy.classify(network, card, options.images), strict=True):
        print(f"{path}  {' | '.join(f'{name} {share:.2f}' for name, share in answers[:3])}")


def list_kit(options: argparse.Namespace) -> None:
    from eas import load_kit

    kit = load_kit(options.kit)
    for superclass, members in zip(kit.hierarchy.superclasses, kit.hierarchy.members, strict=True):
        print(f"{superclass}: {', '.join(members)}")
    space = kit.supernet.space
    ends = space.madds(space.smallest, 1), space.madds(space.largest, len(kit.hierarchy.classes))
    low, high, least, most = (f"{float(madds) / 1e6:.4g}M" for madds in (*kit.generator.budget_range, *ends))
    print(f"budgets: {low} to {high} multiply-adds are what it was made for; its networks need {least} to {most}")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; an error is one line."""
    try:
        options = parser().parse_args(arguments)
        options.run(options)
    except (ImportError, OSError, ValueError) as err:
        print(f"error: {' '.join(str(err).split())}", file=sys.stderr)
        return 1
    return 0
