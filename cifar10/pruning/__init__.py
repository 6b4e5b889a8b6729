"""Channel pruning for Keras models: sparse batch-norm gammas, and removal of the channels that they shut."""

from cifar10.pruning import rules
from cifar10.pruning.callbacks import SparsityLogger
from cifar10.pruning.comparing import compare
from cifar10.pruning.costs import multiply_adds
from cifar10.pruning.folding import fold_batch_norms
from cifar10.pruning.proximal import ProximalOptimizer, ProximalSGD
from cifar10.pruning.prune_to_budget import plan_prune, prune
from cifar10.pruning.recalibration import recalibrate
from cifar10.pruning.rescaling import scale_gammas, unscale_gammas
from cifar10.pruning.rules.base import register
from cifar10.pruning.sparsity import fake_sparsity, group_lasso, groups, penalties
from cifar10.pruning.squeezing import plan, squeeze

__all__ = [
  "ProximalOptimizer",
  "ProximalSGD",
  "SparsityLogger",
  "compare",
  "fake_sparsity",
  "fold_batch_norms",
  "group_lasso",
  "groups",
  "multiply_adds",
  "penalties",
  "plan",
  "plan_prune",
  "prune",
  "recalibrate",
  "register",
  "rules",
  "scale_gammas",
  "squeeze",
  "unscale_gammas",
]
