"""`python -m cifar10`: lists the commands, and runs them."""

import sys

from cifar10.cli.commands import main

if __name__ == "__main__":
  sys.exit(main())
