"""What `squeeze` makes of the networks of keras.applications when a random 40% of their gammas are 0.

python scripts/applications.py [--network MobileNetV2]
"""

import argparse
import functools

from cifar10.console import table, table_row
from cifar10.quiet import quietly

with quietly("3"):
  import keras
  import numpy as np
  from keras import applications, layers

  from cifar10.pruning import plan
  from cifar10.pruning.calls import layers_in

SHARE = 0.4


def vgg16_with_batch_norm(**arguments):
  """VGG16 with a batch norm between each convolution and its ReLU."""
  vgg = applications.VGG16(**arguments)
  x = vgg.input
  for layer in vgg.layers[1:]:
    if isinstance(layer, layers.Conv2D):
      x = layers.Conv2D.from_config({**layer.get_config(), "activation": "linear", "use_bias": False})(x)
      x = layers.BatchNormalization(name=f"{layer.name}_bn")(x)
      x = layers.ReLU(name=f"{layer.name}_relu")(x)
    else:
      x = layer(x)
  return keras.Model(vgg.input, x, name="vgg16_with_batch_norm")


NETWORKS = {
  "ResNet50": applications.ResNet50,
  "ResNet50V2": applications.ResNet50V2,
  "VGG16 with batch norm": vgg16_with_batch_norm,
  "DenseNet121": applications.DenseNet121,
  "MobileNet": applications.MobileNet,
  "MobileNetV2": applications.MobileNetV2,
  "MobileNetV3Small": functools.partial(applications.MobileNetV3Small, input_shape=(224, 224, 3)),
  "MobileNetV3Large": functools.partial(applications.MobileNetV3Large, input_shape=(224, 224, 3)),
  "EfficientNetB0": applications.EfficientNetB0,
  "EfficientNetV2B0": applications.EfficientNetV2B0,
  "Xception": applications.Xception,
  "InceptionV3": applications.InceptionV3,
  "InceptionResNetV2": applications.InceptionResNetV2,
  "NASNetMobile": applications.NASNetMobile,
  "ConvNeXtTiny": applications.ConvNeXtTiny,
}


def shut_at_random(model, seed=0, share=SHARE):
  """Sets a share of each batch norm's gammas to 0, the others, betas and moving statistics to random numbers."""
  rng = np.random.default_rng(seed)
  for layer in layers_in(model):
    if isinstance(layer, layers.BatchNormalization):
      size = layer.moving_mean.shape
      layer.moving_mean.assign(rng.normal(size=size) * 0.1)
      layer.moving_variance.assign(rng.uniform(0.5, 1.5, size))
      if layer.center:
        layer.beta.assign(rng.normal(size=size) * 0.1)
      if layer.scale:
        gamma = rng.uniform(0.5, 1.5, size)
        gamma[rng.permutation(len(gamma))[: round(share * len(gamma))]] = 0
        layer.gamma.assign(gamma)


def main():
  """Prints a table of parameters and multiply-adds before and after, for both modes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--network", choices=NETWORKS, help="only this one")
  arguments = parser.parse_args()
  ways = ["`exact=True`", "`exact=False`"]
  print(table(["network", "parameters, M", *ways, "multiply-adds, M", *ways]))
  for name in [arguments.network] if arguments.network else NETWORKS:
    keras.backend.clear_session()
    model = NETWORKS[name](weights=None)
    shut_at_random(model)
    exact, paper = plan(model, exact=True), plan(model, exact=False)
    parameters = (exact.parameters_before, exact.parameters_after, paper.parameters_after)
    multiply_adds = (exact.multiply_adds_before, exact.multiply_adds_after, paper.multiply_adds_after)
    figures = [f"{x / 1e6:.2f}" for x in parameters] + [f"{x / 1e6:.0f}" for x in multiply_adds]
    print(table_row([name, *figures]), flush=True)


if __name__ == "__main__":
  main()
