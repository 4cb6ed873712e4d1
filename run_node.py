"""Run a node: python run_node.py 8000."""

import sys

from p2p_sync.cli import main

sys.exit(main())
