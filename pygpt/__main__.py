"""`python -m pygpt`: the command line of cli.py."""

import sys

from pygpt.cli import main

sys.exit(main())
