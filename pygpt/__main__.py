"""Runs the command line, for `python -m pygpt`."""

import sys

if sys.version_info < (3, 10):  # an older one cannot parse the other files
    sys.exit("pygpt: error: pygpt needs Python 3.10 or later, and %s is %s"
             % (sys.executable, sys.version.split()[0]))

from pygpt.cli.main import main

sys.exit(main())
