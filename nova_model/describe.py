"""`python -m nova_model.describe`: alias of `nova_model.tools.describe`, for one version."""

import sys

from nova_model.tools.describe import main

if __name__ == "__main__":
    print("nova_model.describe is deprecated: use python -m nova_model.tools.describe", file=sys.stderr)
    sys.exit(main())
