"""Fetch the published images of a data set and check them.

    python -m eas.data cifar100 [--to data]

What each data set needs, and how to do without the network, stands in its module.
"""

from __future__ import annotations

import argparse
import socket
import sys

from eas.data import SOURCES


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    sources = {kind: source for kind, source in SOURCES.items() if hasattr(source, "fetch")}
    parser = argparse.ArgumentParser(prog="python -m eas.data", description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=sources)
    parser.add_argument("--to", help="folder to put them into (default: data, or what the data set's variable says)")
    options = parser.parse_args(arguments)
    try:
        folder = sources[options.dataset].fetch(options.to)
    except (OSError, ValueError) as err:
        print(f"error: {' '.join(str(err).split())}", file=sys.stderr)
        return 1
    print(f"{folder}: as published")
    return 0


if __name__ == "__main__":
    socket.setdefaulttimeout(30)  # seconds without a byte, after which a connection counts as broken
    sys.exit(main())
