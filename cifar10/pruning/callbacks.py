"""What `model.fit` shows of the sparsity while it trains."""

import keras

from cifar10.pruning.sparsity import fake_sparsity, group_lasso


class SparsityLogger(keras.callbacks.Callback):
  """Adds `group_lasso` and `fake_sparsity` to the logs at the end of each epoch.

  So they stand in the progress bar and in the history that `fit` returns, and in what the callbacks behind this one in
  `fit`'s list write: put it before `TensorBoard` or `CSVLogger`.

  Args:
    penalties: dict from the path of a gamma variable to its penalty, as `penalties(model)` gives it.

  Raises:
    ValueError: when the training begins, if a path is none of the model's.
  """

  def __init__(self, penalties):
    super().__init__()
    self.penalties = dict(penalties)

  def on_train_begin(self, logs=None):
    """Looks whether the penalties are the model's."""
    group_lasso(self.model, self.penalties)

  def on_epoch_end(self, epoch, logs=None):
    """Adds the figures; see `keras.callbacks.Callback.on_epoch_end`."""
    if logs is not None:
      logs["group_lasso"] = float(group_lasso(self.model, self.penalties))
      logs["fake_sparsity"] = float(fake_sparsity(self.model, self.penalties))
