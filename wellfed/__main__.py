"""`python -m wellfed` is the `wellfed` command."""

import sys

from wellfed.cli import main

sys.exit(main())
