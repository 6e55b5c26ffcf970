"""``python -m shadowset.requester.cli``: the command ``shadowset``."""

import sys

from shadowset.requester.cli import main

sys.exit(main())
