"""`python -m nova_model.bench`: alias of `nova_model.tools.bench`, for one version."""

import sys

from nova_model.tools.bench import main

if __name__ == "__main__":
    print("nova_model.bench is deprecated: use python -m nova_model.tools.bench", file=sys.stderr)
    sys.exit(main())
