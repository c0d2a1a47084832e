"""`python -m eas`: see eas.cli."""

import sys

from eas.cli import main

if __name__ == "__main__":
    sys.exit(main())
