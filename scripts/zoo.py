"""What `squeeze` makes of networks of keras-hub and kimm, with random weights and 40% of their gammas at 0.

Needs the extra `zoo`. Prints a table: parameters before and after; the share of dead channels that went, of all and of
those that no sum, output or constant other than 0 holds; and why the others stay. `--verify` squeezes in float64 and
gives the change of the outputs too.

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
  from applications import shut_at_random

  from cifar10.pruning import plan, register, rules, squeeze

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


def register_layers():
  """Registers the layers of kimm with weights along the channel axis."""
  own = importlib.import_module("kimm").layers
  register(own.LayerScale, rules.PerChannel(multiply=["gamma"]))
  register(own.LearnableAffine, rules.PerChannel(multiply=["scale"], add=["bias"]))


def row(name, verify):
  """A line of the table."""
  model = NETWORKS[name]()
  shut_at_random(model)
  report = squeeze(model)[1] if verify else plan(model)
  removed = sum(gate.removed for gate in report.gates.values())
  kept = collections.Counter()
  for gate in report.gates.values():
    for reason, count in gate.kept_though_dead.items():
      kept["walls" if reason in report.walls else reason] += count
  free = removed + sum(count for reason, count in kept.items() if reason not in HELD)
  shares = [f"{removed / count:.2f}" if count else "" for count in (removed + sum(kept.values()), free)]
  sizes = [f"{count / 1e6:.2f}" for count in (report.parameters_before, report.parameters_after)]
  difference = [f"{report.check.difference:.1e}" if report.check.difference is not None else ""] if verify else []
  return [name, *sizes, *shares, ", ".join(f"{count} {reason}" for reason, count in kept.most_common(3)), *difference]


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--network", choices=NETWORKS, help="only this one")
  parser.add_argument("--verify", action="store_true", help="squeeze in float64, and compare")
  arguments = parser.parse_args()
  if arguments.verify:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
  titles = [
    "network",
    "parameters, M",
    "after",
    "share of dead channels that went",
    "of those that nothing holds",
    "others",
  ]
  register_layers()
  print(table([*titles, *(["change of outputs"] if arguments.verify else [])]))
  for name in [arguments.network] if arguments.network else NETWORKS:
    keras.backend.clear_session()
    print(table_row(row(name, arguments.verify)), flush=True)


if __name__ == "__main__":
  main()
