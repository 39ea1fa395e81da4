"""`python -m pygpt`: the command line of cli.py."""

import sys

if sys.version_info < (3, 10):  # whose syntax the rest is not in
    sys.exit("pygpt: error: pygpt needs Python 3.10 or later, and %s is %s"
             % (sys.executable, sys.version.split()[0]))

from pygpt.cli.main import main

sys.exit(main())
