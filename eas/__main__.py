"""`python -m eas`: see eas.serving.cli."""

import sys

from eas.serving.cli import main

if __name__ == "__main__":
    sys.exit(main())
