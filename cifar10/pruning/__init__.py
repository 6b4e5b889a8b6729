"""Channel pruning for Keras models: sparse batch-norm gammas, and removal of the channels that they shut."""

from cifar10.pruning.proximal import ProximalSGD
from cifar10.pruning.sparsity import fake_sparsity, group_lasso, penalties
from cifar10.pruning.squeezing import multiply_adds, squeeze

__all__ = ["ProximalSGD", "fake_sparsity", "group_lasso", "multiply_adds", "penalties", "squeeze"]
