"""`python -m saddlepoint`, and what `torchrun ... -m saddlepoint` starts."""

from __future__ import annotations

import sys

from saddlepoint.cli import main

if __name__ == "__main__":
    sys.exit(main())
