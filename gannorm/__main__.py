"""`python -m gannorm` is the command `gannorm`."""

import sys

from gannorm.cli import main

sys.exit(main())
