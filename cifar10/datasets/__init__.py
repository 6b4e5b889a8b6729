"""Where the images come from: `cifar10.py` finds CIFAR-10 in one of its forms, `synthetic.py` makes its own."""
