"""`python -m nova_model.parity`: alias of `nova_model.tools.parity`, for one version."""

import sys

from nova_model.tools.parity import main

if __name__ == "__main__":
    print("nova_model.parity is deprecated: use python -m nova_model.tools.parity", file=sys.stderr)
    sys.exit(main())
