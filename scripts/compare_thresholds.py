"""Trains networks whose channels are tied, or constants other than 0, with each kind of threshold, and compares them.

python scripts/compare_thresholds.py results.jsonl [--networks resnet,densenet] [--steps 1000]

Each network is warmed up once without a penalty. From there, for each kind of threshold, it is trained with a penalty
that doubles, until the fake sparsity is the same for all; squeezed; and fine-tuned. Each row is kept in the file of
results as soon as it is there, and the warmed-up networks beside it: run again, only what is missing is trained.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

from cifar10.config import DATASETS
from cifar10.console import table
from cifar10.errors import UserError
from cifar10.quiet import quietly

with quietly():
  import keras
  import tensorflow as tf
  from keras import applications, layers
  from keras.optimizers import schedules

  from cifar10 import input_pipeline
  from cifar10.batch_norm import fused, unfused
  from cifar10.datasets.examples import Examples
  from cifar10.evaluate import precision_and_loss
  from cifar10.pruning import ProximalSGD, fake_sparsity, groups, penalties, recalibrate, squeeze

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CALIBRATION_BATCHES = 20
STEPS_BETWEEN_LOOKS = 5
# By name: whether gammas are thresholded by group, and whether betas are too.
THRESHOLDS = {
  "singly": (False, False),
  "by group": (True, False),
  "singly with betas": (False, True),
  "by group with betas": (True, True),
}


def conv_bn(x, filters, size=3, strides=1, relu=True):
  """A convolution, a batch norm with gammas and, with `relu`, a ReLU."""
  x = layers.BatchNormalization()(layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x))
  return layers.ReLU()(x) if relu else x


def resnet(images):
  """The residual network of 20 layers as its first paper has it: gammas in all batch norms, a ReLU behind each sum."""
  x = conv_bn(images, 16)
  for filters in (16, 32, 64):
    for block in range(3):
      strides = 2 if filters > 16 and block == 0 else 1
      shortcut = conv_bn(x, filters, 1, strides, relu=False) if strides > 1 else x
      y = conv_bn(conv_bn(x, filters, 3, strides), filters, relu=False)
      x = layers.ReLU()(layers.Add()([shortcut, y]))
  return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


def densenet(images):
  """Three blocks of six layers that each add 12 channels to all before them, at half the size of the images."""
  x = layers.Conv2D(24, 3, 2, padding="same", use_bias=False)(images)
  for block in range(3):
    if block:
      x = layers.ReLU()(layers.BatchNormalization()(x))
      x = layers.AveragePooling2D(2)(layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(x))
    for _ in range(6):
      y = layers.ReLU()(layers.BatchNormalization()(x))
      x = layers.Concatenate()([x, layers.Conv2D(12, 3, padding="same", use_bias=False)(y)])
  x = layers.ReLU()(layers.BatchNormalization()(x))
  return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


def of_applications(network, rescale, **arguments):
  """A function that makes a network of keras.applications, for 10 classes."""

  def build(images):
    x = layers.Rescaling(64.0, offset=128.0)(images) if rescale else images
    return network(weights=None, input_tensor=x, classes=10, classifier_activation=None, **arguments).output

  return build


NETWORKS = {
  "resnet": resnet,
  "densenet": densenet,
  "efficientnet": of_applications(applications.EfficientNetB0, True),
  "mobilenet": of_applications(applications.MobileNetV3Small, False, include_preprocessing=False),
}


class StopAt(keras.callbacks.Callback):
  """Ends the training at the first look at which the fake sparsity is `target` or more."""

  def __init__(self, gates, target):
    super().__init__()
    self.gates, self.target = gates, target

  def on_train_batch_end(self, batch, logs=None):
    if (batch + 1) % STEPS_BETWEEN_LOOKS == 0 and float(fake_sparsity(self.model, self.gates)) >= self.target:
      self.model.stop_training = True


def batches(examples, arguments, first, count):
  """Batches of distorted images and labels, number `first` and the next ones, as `cifar10-train` makes them."""
  examples = Examples(*map(tf.constant, examples))

  def batch(step):
    return input_pipeline.batch(examples, arguments.seed, step, arguments.batch_size)

  options = tf.data.Options()
  options.autotune.enabled = False  # Its thread is waited for at the end, for up to a minute.
  return tf.data.Dataset.range(first, first + count).map(batch, num_parallel_calls=2).prefetch(2).with_options(options)


def fitted(model, optimizer, data, callbacks=()):
  """Trains a copy of a model on batches, once through; returns it, and how many steps that took."""
  training = fused(model)
  training.compile(optimizer, LOSS, jit_compile=False)
  training.fit(data, verbose=0, callbacks=list(callbacks))
  return unfused(training), int(optimizer.iterations)


def warmed_up(name, train, arguments):
  """The network after so many steps without a penalty; from its file if it was trained before."""
  settings = (arguments.dataset, arguments.steps, arguments.batch_size, arguments.learning_rate, arguments.seed)
  path = arguments.results.with_name("_".join(["warm", name, *map(str, settings)]) + ".keras")
  if path.exists():
    return keras.saving.load_model(path, compile=False)
  keras.utils.set_random_seed(arguments.seed)
  images = keras.Input((32, 32, 3), name="images")
  model = keras.Model(images, NETWORKS[name](images), name=name)
  sgd = keras.optimizers.SGD(arguments.learning_rate, momentum=0.9)
  model, _ = fitted(model, sgd, batches(train, arguments, 0, arguments.steps))
  with tempfile.TemporaryDirectory(dir=path.parent) as directory:
    model.save(pathlib.Path(directory) / path.name)
    (pathlib.Path(directory) / path.name).replace(path)
  return model


def precision(model, train, test, arguments):
  """On the test images, with moving statistics that were computed anew."""
  recalibrate(model, batches(train, arguments, 0, CALIBRATION_BATCHES).map(lambda images, labels: images))
  return precision_and_loss(model, test, arguments.batch_size)[0]


def measured(name, kind, train, test, arguments):
  """The row of one network and kind of threshold: dict."""
  start, steps = time.monotonic(), arguments.steps
  by_group, betas = THRESHOLDS[kind]
  model = warmed_up(name, train, arguments)
  gates = penalties(model)
  doubling = schedules.ExponentialDecay(arguments.l1_penalty, max(1, 2 * steps // arguments.doublings), decay_rate=2.0)
  together = groups(model) if by_group else None
  optimizer = ProximalSGD(arguments.learning_rate, doubling, gates, together, betas, momentum=0.9)
  data = batches(train, arguments, steps, 2 * steps)
  model, sparsifying = fitted(model, optimizer, data, [StopAt(gates, arguments.target_sparsity)])
  smaller, report = squeeze(model)
  squeezed = precision(smaller, train, test, arguments)
  sgd = keras.optimizers.SGD(arguments.learning_rate / 10, momentum=0.9)
  smaller, _ = fitted(smaller, sgd, batches(train, arguments, 3 * steps, steps))
  return {
    "parameters_before": report.parameters_before,
    "parameters_after": report.parameters_after,
    "multiply_adds_before": report.multiply_adds_before,
    "multiply_adds_after": report.multiply_adds_after,
    "fake_sparsity": float(fake_sparsity(model, gates)),
    "dead_and_kept": sum(sum(gate.kept_though_dead.values()) for gate in report.gates.values()),
    "sparsifying_steps": sparsifying,
    "precision_squeezed": squeezed,
    "precision_fine_tuned": precision(smaller, train, test, arguments),
    "seconds": time.monotonic() - start,
  }


def printed(rows):
  """The table of all rows."""
  header = ["network", "thresholds", "fake sparsity", "parameters", "of", "share", "multiply-adds' share", "dead, kept"]
  cells = [
    [
      row["network"],
      row["thresholds"],
      f"{row['fake_sparsity']:.2f}",
      f"{row['parameters_after']:,}",
      f"{row['parameters_before']:,}",
      f"{row['parameters_after'] / row['parameters_before']:.2f}",
      f"{row['multiply_adds_after'] / row['multiply_adds_before']:.2f}",
      row["dead_and_kept"],
      f"{row['precision_squeezed']:.4f}",
      f"{row['precision_fine_tuned']:.4f}",
      row["sparsifying_steps"],
    ]
    for row in rows
  ]
  return table([*header, "precision @ 1, squeezed", "fine-tuned", "steps to sparsity"], cells)


def kept(results, key):
  """The rows of the file of results that hold all of `key`."""
  rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
  return [row for row in rows if key.items() <= row.items()]


def parsed():
  """The arguments of the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("results", type=pathlib.Path, help="file that keeps a line of JSON for each row")
  parser.add_argument("--networks", default=",".join(NETWORKS), help="some of these, with commas between them")
  parser.add_argument("--thresholds", default=",".join(THRESHOLDS), help="some of these, with commas between them")
  parser.add_argument(
    "--steps", type=int, default=1000, help="of warming up and fine-tuning; twice as many to sparsify"
  )
  parser.add_argument("--target_sparsity", type=float, default=0.5, help="fake sparsity at which training stops")
  parser.add_argument("--l1_penalty", type=float, default=0.002, help="with which sparsifying begins")
  parser.add_argument("--doublings", type=int, default=12, help="of the penalty, over twice the steps")
  parser.add_argument("--learning_rate", type=float, default=0.02, help="with a momentum of 0.9")
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--dataset", choices=DATASETS, default=DATASETS[0])
  return parser.parse_args()


def main():
  """Prints a table of parameters, fake sparsity and precision, for each network and kind of threshold."""
  arguments = parsed()
  chosen = {}
  for name, known in (("networks", NETWORKS), ("thresholds", THRESHOLDS)):
    chosen[name] = getattr(arguments, name).split(",")
    unknown = set(chosen[name]) - set(known)
    if unknown:
      sys.exit(f"--{name} has {', '.join(sorted(unknown))}; expected some of {', '.join(known)}.")
  settings = {name: value for name, value in vars(arguments).items() if name not in ("results", *chosen)}
  try:
    train, test = (input_pipeline.load(arguments.dataset, split) for split in ("train", "test"))
  except UserError as error:
    sys.exit(str(error))
  keys = [
    {"network": name, "thresholds": kind, **settings} for name in chosen["networks"] for kind in chosen["thresholds"]
  ]
  for key in keys:
    if not kept(arguments.results, key):
      row = measured(key["network"], key["thresholds"], train, test, arguments)
      with arguments.results.open("a") as file:
        file.write(f"{json.dumps({**key, **row})}\n")
      print(f"{key['network']}, {key['thresholds']}: {row['seconds']:.0f} s", flush=True)
  rows = [row for key in keys for row in kept(arguments.results, key)[:1]]
  print(printed(rows))


if __name__ == "__main__":
  main()
