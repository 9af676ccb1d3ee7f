"""`python -m saddlepoint`, and what `torchrun ... -m saddlepoint` starts."""

from __future__ import annotations

import os
import sys

from saddlepoint.cli import main

if __name__ == "__main__":
    status = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from saddlepoint.distributed import leave

        leave(status)
    sys.exit(status)
