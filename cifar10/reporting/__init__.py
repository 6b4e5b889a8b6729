"""What `cifar10-report` is made of: the facts of a chain, pictures of them, and the page."""
