"""`python -m actlib COMMAND …`, as the command `actlib`."""

import sys

from actlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
