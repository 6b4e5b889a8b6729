"""`cifar10-train` in the tiny world: with the tiny network for each of its own, on few images."""

import sys

from helpers import put_tiny_world_in_place

from cifar10.cli.train import main

put_tiny_world_in_place()
sys.exit(main(["cifar10-train", *sys.argv[1:]]))
