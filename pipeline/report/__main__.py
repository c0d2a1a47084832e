"""Write the reports, show one, or compare a fresh one with the committed one.

python -m pipeline.report render STUDY    build/STUDY/ -> reports/STUDY/
python -m pipeline.report show STUDY      what reports/STUDY/ found, in the terminal
python -m pipeline.report check STUDY     reports/STUDY/metrics.json against the one in git, within tolerances
python -m pipeline.report overview        reports/*/metrics.json -> reports/README.md
python -m pipeline.report sets STUDY      weights/STUDY/ or build/STUDY/ -> reports/STUDY/sets.json
python -m pipeline.report explorer        reports/*/sets.json -> reports/explorer.html
python -m pipeline.report site            README.md, reports/ -> build/site/, static pages
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

COMMANDS = {  # where each is; imported only when it is called, as what draws figures takes seconds to import
    "render": "pipeline.report.page:render",
    "show": "pipeline.report.template:found",
    "check": "pipeline.report.check:check",
    "overview": "pipeline.report.overview:write",
    "sets": "pipeline.report.explorer.sets:write",
    "explorer": "pipeline.report.explorer.page:write",
    "site": "pipeline.report.site:write",
}


def main(arguments: list[str] | None = None) -> int:
    """The commands; an error is one line."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        if name not in ("overview", "explorer", "site"):  # these are of all studies
            command.add_argument("study")
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    module, name = COMMANDS[command].split(":")
    try:
        done = getattr(import_module(module), name)(**options)
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    if command == "check" and done:
        print(f"off by more than the tolerance: {', '.join(done)}", file=sys.stderr)
        return 1
    if command != "check":
        print(done if command == "show" else f"wrote {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
