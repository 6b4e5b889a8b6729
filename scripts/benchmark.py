"""Times the bare training step, without input, of the networks in version directories, by kind of batch norm.

python scripts/benchmark.py checkpoints/cifar10_train_1 checkpoints/cifar10_train_2
"""

import argparse
import pathlib
import statistics
import time

import tensorflow as tf

from cifar10 import batch_norm, checkpoints

STEPS = 15


def main():
  """Prints a table: medians of milliseconds for a step of 125 images, and their ratio to Keras' own layer."""
  parser = argparse.ArgumentParser()
  parser.add_argument("version_dirs", nargs="+", type=pathlib.Path, help="directories that hold a model.keras")
  arguments = parser.parse_args()
  block = batch_norm.CHANNEL_BLOCK
  print("| network | batch norm | ms a step | of Keras' own |")
  print("|---|---|---|---|")
  for directory in arguments.version_dirs:
    network = checkpoints.load_network(directory)
    own = median_milliseconds(network)
    batch_norm.CHANNEL_BLOCK = 1
    unpadded = median_milliseconds(batch_norm.fused(network))
    batch_norm.CHANNEL_BLOCK = block
    padded = median_milliseconds(batch_norm.fused(network))
    for kind, milliseconds in (("Keras' own", own), ("fused", unpadded), (f"fused, blocks of {block}", padded)):
      print(f"| {directory.name} | {kind} | {milliseconds:.0f} | {milliseconds / own:.2f} |", flush=True)


def median_milliseconds(model):
  """The median time of a gradient step on one random batch of 125, after a warm-up."""
  generator = tf.random.Generator.from_seed(0)
  images = generator.normal((125, *model.input_shape[1:]))
  labels = generator.uniform((125,), 0, 10, tf.int32)
  variables = [variable.value for variable in model.trainable_variables]

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      logits = model(images, training=True)
      loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
      variable.assign_sub(0.01 * gradient)
    return loss

  def milliseconds():
    start = time.perf_counter()
    step().numpy()
    return 1000 * (time.perf_counter() - start)

  for _ in range(3):
    step()
  return statistics.median(milliseconds() for _ in range(STEPS))


if __name__ == "__main__":
  main()
