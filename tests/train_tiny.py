"""`cifar10-train` with the tiny network for each of its own; the flags of a next run in the process follow a `then`."""

import itertools
import sys

from helpers import put_tiny_network_in_place

from cifar10.cli.train import main

put_tiny_network_in_place()
runs = itertools.groupby(sys.argv[1:], lambda argument: argument == "then")
sys.exit(max(main(["cifar10-train", *flags]) for is_between, flags in runs if not is_between))
