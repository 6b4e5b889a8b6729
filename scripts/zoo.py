"""What `squeeze` makes of networks of keras-hub and kimm, with random weights and 40% of their gammas at 0.

Needs the extra `zoo`. Prints a table: parameters, and those that are left where gammas are shut one by one, and where
those of channels that stay or go together are shut together; the share of dead channels that went, of all and of those
that no sum, output or constant other than 0 holds; and why others stay, of those shut together. `--verify` squeezes in
float64 and gives the change of the outputs too.

python scripts/zoo.py [--network "kimm RegNetX002"] [--verify]
"""

import argparse
import collections
import functools
import importlib

from cifar10.console import table, table_row
from cifar10.quiet import quietly

with quietly("3"):
  import keras
  import numpy as np
  from applications import SHARE, shut_at_random

  from cifar10.pruning import groups, plan, register, rules, squeeze
  from cifar10.pruning.keys import variables_of

SIZE = (64, 64, 3)
KIMM = (
  "ConvMixer736D32",
  "DenseNet121",
  "EfficientNetB0",
  "EfficientNetLiteB0",
  "EfficientNetV2B0",
  "GhostNetW100",
  "HGNetV2B0",
  "InceptionNeXtTiny",
  "LCNet100",
  "MobileNetV2W100",
  "MobileNetV3W100Small",
  "MobileOneS0",
  "MobileViTXXS",
  "RegNetX002",
  "RegNetY002",
  "RepVGGA0",
  "ResNet18",
  "ResNet34",
  "ResNet50",
  "Xception",
)


def kimm(name):
  """A network of kimm without weights."""
  return getattr(importlib.import_module("kimm").models, name)(input_shape=SIZE, weights=None, classes=10)


def keras_hub(name, **arguments):
  """A backbone of keras-hub, with a dense layer on the mean of its features."""
  backbone = getattr(importlib.import_module("keras_hub").models, f"{name}Backbone")(image_shape=SIZE, **arguments)
  features = keras.layers.GlobalAveragePooling2D()(backbone.output)
  return keras.Model(backbone.input, keras.layers.Dense(10, name="logits")(features), name=name)


def resnet(block_type, preactivation=False):
  """Arguments of keras-hub's ResNet."""
  return {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [2, 2, 2, 2],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": block_type,
    "use_pre_activation": preactivation,
  }


NETWORKS = {f"kimm {name}": functools.partial(kimm, name) for name in KIMM} | {
  "keras-hub ResNet": functools.partial(keras_hub, "ResNet", **resnet("basic_block")),
  "keras-hub ResNet, bottlenecks": functools.partial(keras_hub, "ResNet", **resnet("bottleneck_block")),
  "keras-hub ResNetV2": functools.partial(keras_hub, "ResNet", **resnet("bottleneck_block", preactivation=True)),
  "keras-hub DenseNet": functools.partial(keras_hub, "DenseNet", stackwise_num_repeats=[6, 12, 24, 16]),
  "keras-hub Xception": functools.partial(
    keras_hub,
    "Xception",
    stackwise_conv_filters=[[32, 64], [64, 128], [256, 256]],
    stackwise_pooling=[True, True, False],
  ),
}
HELD = ("shared", "output", "padding", "carrier")  # By a sum or an output, or as a constant other than 0.
HELD_BY_GROUP = (*HELD, "groups")  # Or by another one of the same group of a convolution, which is held.


def register_layers():
  """Registers the layers of kimm with weights along the channel axis."""
  own = importlib.import_module("kimm").layers
  register(own.LayerScale, rules.PerChannel(multiply=["gamma"]))
  register(own.LearnableAffine, rules.PerChannel(multiply=["scale"], add=["bias"]))


def shut_by_group(model, seed=0, share=SHARE):
  """Like `shut_at_random`, but all gammas of channels that stay or go together are shut together."""
  shut_at_random(model, seed, share=0)
  together = groups(model)
  numbers = np.unique(np.concatenate(list(together.values())))
  shut = np.random.default_rng(seed).permutation(numbers)[: round(share * len(numbers))]
  for key, gamma in variables_of(model, together).items():
    gamma.assign(np.where(np.isin(together[key], shut), 0, gamma))


WAYS = ((shut_at_random, HELD), (shut_by_group, HELD_BY_GROUP))


def counted(report, held):
  """What of a report the table shows, as cells; and why dead channels stay, dict from reason to count.

  Args:
    report: the `SqueezeReport`.
    held: the reasons for which a dead channel may well stay.
  """
  removed = sum(gate.removed for gate in report.gates.values())
  kept = collections.Counter()
  for gate in report.gates.values():
    for reason, count in gate.kept_though_dead.items():
      kept["walls" if reason in report.walls else reason] += count
  free = removed + sum(count for reason, count in kept.items() if reason not in held)
  shares = [f"{removed / count:.2f}" if count else "" for count in (removed + kept.total(), free)]
  return [f"{report.parameters_after / 1e6:.2f}", *shares], kept


def row(name, verify):
  """A line of the table."""
  cells, differences = [name], []
  for shut, held in WAYS:
    keras.backend.clear_session()
    model = NETWORKS[name]()
    shut(model)
    report = squeeze(model)[1] if verify else plan(model)
    found, kept = counted(report, held)
    cells += found if len(cells) > 1 else [f"{report.parameters_before / 1e6:.2f}", *found]
    differences.append(report.check and report.check.difference)
  cells.append(", ".join(f"{count} {reason}" for reason, count in kept.most_common(3)))
  if verify:
    cells.append("" if None in differences else f"{max(differences):.1e}")
  return cells


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--network", choices=NETWORKS, help="only this one")
  parser.add_argument("--verify", action="store_true", help="squeeze in float64, and compare")
  arguments = parser.parse_args()
  if arguments.verify:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
  shares = ["of all dead", "of those that nothing holds"]
  titles = ["network", "parameters, M", "shut singly", *shares, "shut by group", *shares, "others"]
  register_layers()
  print(table([*titles, *(["change of outputs"] if arguments.verify else [])]))
  for name in [arguments.network] if arguments.network else NETWORKS:
    print(table_row(row(name, arguments.verify)), flush=True)


if __name__ == "__main__":
  main()
