"""`cifar10-train` with the tiny network for each of its own."""

import sys

from helpers import put_tiny_network_in_place

from cifar10.cli.train import main

put_tiny_network_in_place()
sys.exit(main(["cifar10-train", *sys.argv[1:]]))
