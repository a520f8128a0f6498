"""`python -m neumeta_hf`, the command where its script is not on the path."""

import sys

from neumeta_hf.cli import main

sys.exit(main())
