"""``python -m jaxir`` is the command ``jaxir``."""

import sys

from jaxir.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
