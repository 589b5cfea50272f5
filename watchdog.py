"""`python watchdog.py` runs the service, as `mayfly serve` does when it has made the embedding model.

`--help` names the flags. See mayfly/watchdog.py.
"""

import sys

from mayfly.watchdog import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
