"""python -m float_core …"""  # noqa: D415 - a command line

import sys

from .cli import main

sys.exit(main())
