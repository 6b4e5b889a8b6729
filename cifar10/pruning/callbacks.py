"""What `model.fit` shows of the sparsity while it trains."""

from collections.abc import Mapping

import keras

from cifar10.pruning.sparsity import fake_sparsity, group_lasso


class SparsityLogger(keras.callbacks.Callback):
  """Adds `group_lasso` and `fake_sparsity` to the logs at the end of each epoch.

  So they stand in the progress bar and in the history that `fit` returns, and in what the callbacks behind this one in
  `fit`'s list write: put it before `TensorBoard` or `CSVLogger`.

  Args:
    penalties: dict from the key of a gamma variable to its penalty, as `penalties(model)` gives it.

  Raises:
    ValueError: when the training begins, if a key is none of the model's.

  >>> import keras
  >>> from keras import layers
  >>> images = keras.Input((8, 8, 3))
  >>> x = layers.Conv2D(4, 3, use_bias=False, name="a")(images)
  >>> x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="a_bn")(x)))
  >>> model = keras.Model(images, layers.Dense(2, name="logits")(x))
  >>> import numpy as np
  >>> from cifar10.pruning import ProximalSGD, penalties
  >>> gates = penalties(model)
  >>> model.compile(ProximalSGD(0.1, 0.005, gates), "mse")
  >>> images, targets = np.ones((4, 8, 8, 3)), np.ones((4, 2))
  >>> history = model.fit(images, targets, callbacks=[SparsityLogger(gates)], verbose=0).history
  >>> sorted(history), history["fake_sparsity"]
  (['fake_sparsity', 'group_lasso', 'loss'], [0.0])
  """

  def __init__(self, penalties: Mapping[str, float]):
    super().__init__()
    self.penalties = dict(penalties)

  def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
    """Looks whether the penalties are the model's."""
    group_lasso(self.model, self.penalties)

  def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
    """Adds the figures; see `keras.callbacks.Callback.on_epoch_end`."""
    if logs is not None:
      logs["group_lasso"] = float(group_lasso(self.model, self.penalties))
      logs["fake_sparsity"] = float(fake_sparsity(self.model, self.penalties))
