"""`python -m nova_model.parity`: the former place of `nova_model.tools.parity`, kept for one version."""

import sys

from nova_model.tools.parity import main

if __name__ == "__main__":
    sys.exit(main())
