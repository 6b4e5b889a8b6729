"""Channel pruning by sparse batch-norm scales, on CIFAR-10."""
