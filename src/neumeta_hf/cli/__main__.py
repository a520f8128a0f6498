"""`python -m neumeta_hf.cli`."""

import sys

from neumeta_hf.cli import main

sys.exit(main())
