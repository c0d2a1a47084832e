"""Write the reports, show one, or compare a fresh one with the committed one.

python -m pipeline.report render STUDY    build/STUDY/ -> reports/STUDY/
python -m pipeline.report show STUDY      what reports/STUDY/ found, in the terminal
python -m pipeline.report check STUDY     reports/STUDY/metrics.json against the one in git, within tolerances
python -m pipeline.report overview        reports/*/metrics.json -> reports/README.md
"""

from __future__ import annotations

import argparse
import sys

from pipeline.report import check, overview, page


def main(arguments: list[str] | None = None) -> int:
    """The commands; an error is one line."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("render", "show", "check"):
        commands.add_parser(name).add_argument("study")
    commands.add_parser("overview")
    options = parser.parse_args(arguments)
    try:
        off = check.check(options.study) if options.command == "check" else []
        if options.command == "render":
            print(f"wrote {page.render(options.study)}")
        if options.command == "show":
            print(page.found(options.study))
        if options.command == "overview":
            print(f"wrote {overview.write()}")
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    if off:
        print(f"off by more than the tolerance: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
