"""The command `eas`: that of eas.serving.cli, with what makes a kit of one's own photographs."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from eas.serving import cli

NEEDED = ("pandas", "scipy", "torchvision")  # to train, beside what specialising needs


def add_parsers(commands: cli.Commands) -> None:
    """Add `check` and `train`."""
    look = commands.add_parser("check", help="look at folders of photographs, and write a study of them")
    look.add_argument("folder", help="holds train/ and, where there are any, val/ and test/; or folders of classes")
    look.add_argument(
        "--groups", metavar="FILE", help="YAML: lists of classes by superclass (default: the folders above)"
    )
    look.add_argument("--to", metavar="FILE", help="the study to write (default: FOLDER.yaml beside the folder)")
    look.add_argument(
        "--start", metavar="KIT", help="a kit's weights to begin with, or `nothing` (default: ImageNet's)"
    )
    look.add_argument("--compare", action="store_true", help="with what a comparison with other methods needs")
    look.set_defaults(run=check)
    learn = commands.add_parser("train", help="train what serves all classes and budgets of a study")
    learn.add_argument("study", help="YAML, as `eas check` writes it; the same command goes on with it")
    learn.add_argument("--minutes", type=float, help="first set the study's epochs to what takes about so long here")
    learn.add_argument("--compare", action="store_true", help="also run all other methods, for a comparison")
    learn.set_defaults(run=train, goes_on=True)


def check(options: argparse.Namespace) -> None:
    from pipeline.own_study import check

    print(check(options.folder, options.groups, to=options.to, start=options.start, compare=options.compare))


def train(options: argparse.Namespace) -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ModuleNotFoundError(f"training needs {', '.join(missing)}: pip install 'eas[train]'")
    from eas.training import Diverged
    from pipeline.own_kit import train

    try:
        kit = train(options.study, minutes=options.minutes, compare=options.compare)
    except Diverged as error:
        raise ValueError(str(error)) from None
    print(cli.overview(kit))
    first, budget = kit.hierarchy.superclasses[0], sum(kit.generator.budget_range.tolist()) / 2e6
    told = "" if options.compare else "test photographs were not looked at; "
    print(f"{told}next: eas specialize {options.study} {first} --madds {budget:.3g}M")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; an error is one line."""
    return cli.main(arguments, add_parsers)


if __name__ == "__main__":
    sys.exit(main())
