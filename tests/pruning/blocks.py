"""Layers that hold layers, and models with a `call` of their own, after the manner of public examples."""

import keras
from keras import layers, ops


class Residual(layers.Layer):
  """Two convolutions beside the identity, or beside a projection."""

  def __init__(self, filters, stride=1, **arguments):
    super().__init__(**arguments)
    self.projection = [layers.Conv2D(filters, 1, stride), layers.BatchNormalization()] if stride > 1 else []
    self.conv1 = layers.Conv2D(filters, 3, stride, "same", use_bias=False, name="conv1")
    self.bn1 = layers.BatchNormalization(name="bn1")
    self.conv2 = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv2")
    self.bn2 = layers.BatchNormalization(name="bn2")

  def call(self, inputs, training=None):
    x = ops.relu(self.bn1(self.conv1(inputs), training=training))
    x = self.bn2(self.conv2(x), training=training)
    for layer in self.projection:
      inputs = layer(inputs)
    return ops.relu(inputs + x)


class Excitation(layers.Layer):
  """Multiplies channels by what their means say."""

  def __init__(self, filters, **arguments):
    super().__init__(**arguments)
    self.pool = layers.GlobalAveragePooling2D(keepdims=True)
    self.squeeze = layers.Conv2D(3, 1, activation="relu")
    self.excite = layers.Conv2D(filters, 1, activation="sigmoid")

  def call(self, inputs):
    return inputs * self.excite(self.squeeze(self.pool(inputs)))


class Inverted(layers.Layer):
  """An inverted residual: wide in the middle, where a layer that holds layers weighs the channels."""

  def __init__(self, filters, expanded, **arguments):
    super().__init__(**arguments)
    self.expand = keras.Sequential(
      [layers.Conv2D(expanded, 1, use_bias=False), layers.BatchNormalization(), layers.ReLU(6.0)], name="expand"
    )
    self.depthwise = layers.DepthwiseConv2D(3, padding="same", use_bias=False)
    self.norm = layers.BatchNormalization(name="norm")
    self.excitation = Excitation(expanded, name="excitation")
    self.project = layers.Conv2D(filters, 1, name="project")
    self.drop = layers.Dropout(0.5)

  def call(self, inputs):
    x = self.norm(self.depthwise(self.expand(inputs)))
    return layers.Add()([inputs, self.drop(self.project(self.excitation(ops.relu(x))))])


class Classifier(keras.Model):
  """A stem, blocks in a list, and a head."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    self.stem = layers.Conv2D(6, 3, name="stem")
    self.bn = layers.BatchNormalization(name="bn")
    self.blocks = [Residual(6, name="first"), Inverted(6, 8, name="second"), Residual(8, 2, name="third")]
    self.pool = layers.GlobalAveragePooling2D()
    self.head = layers.Dense(3, name="head")

  def call(self, inputs):
    x = ops.relu(self.bn(self.stem(inputs)))
    for block in self.blocks:
      x = block(x)
    return self.head(self.pool(x))


class Small(keras.Model):
  """Two blocks and a head, whose batch norms have names."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    self.residual = Residual(3, name="residual")
    self.inverted = Inverted(3, 5, name="inverted")
    self.inverted.expand.layers[1].name = "bn"
    self.head = layers.Dense(3, name="head")

  def call(self, inputs):
    return self.head(layers.Flatten()(self.inverted(self.residual(inputs))))


class UNet(keras.Model):
  """A U-Net that gives a mask and a score, in a dict."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    widths = (4, 6)
    self.down = [self.block(width) for width in widths]
    self.middle = self.block(8)
    self.up = [layers.Conv2DTranspose(width, 2, 2) for width in widths]
    self.join = [self.block(width) for width in widths]
    self.pool = layers.MaxPooling2D()
    self.mask = layers.Conv2D(1, 1, name="mask")
    self.score = layers.Dense(2, name="score")

  @staticmethod
  def block(width):
    convolution = layers.Conv2D(width, 3, padding="same", use_bias=False)
    return keras.Sequential([convolution, layers.BatchNormalization(), layers.ReLU()])

  def call(self, inputs):
    x, seen = inputs, []
    for block in self.down:
      seen.append(block(x))
      x = self.pool(seen[-1])
    x = self.middle(x)
    score = self.score(ops.mean(x, axis=(1, 2)))
    for up, join, other in zip(self.up[::-1], self.join[::-1], seen[::-1]):
      x = join(ops.concatenate([up(x), other], axis=-1))
    return {"mask": self.mask(x), "score": score}


class Distiller(keras.Model):
  """Trains a student, which it calls, with a teacher, which it does not."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    x = keras.Input((8, 8, 3))
    y = layers.BatchNormalization(name="bn")(layers.Conv2D(6, 3, name="conv")(x))
    y = layers.Dense(3)(layers.Flatten()(layers.Activation("relu")(y)))
    self.student = keras.Model(x, y, name="student")
    self.teacher = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)], name="teacher")
    self.seen = keras.metrics.Mean(name="seen")

  def call(self, inputs):
    return self.student(inputs)


class TwoInputs(keras.Model):
  """Takes a dict, and adds what it sees in both."""

  def __init__(self, **arguments):
    super().__init__(**arguments)
    self.left = Residual(3, name="left")
    self.right = layers.Conv2D(3, 3, padding="same", name="right")
    self.bn = layers.BatchNormalization(name="bn")
    self.end = layers.Conv2D(2, 3, name="end")

  def call(self, inputs):
    return self.end(ops.relu(self.left(inputs["image"]) + self.bn(self.right(inputs["depth"]))))


def functional():
  """A functional model that calls such layers, one of them twice."""
  images = keras.Input((8, 8, 3))
  twice = Residual(6, name="twice")
  x = layers.BatchNormalization(name="bn")(layers.Conv2D(6, 3, name="conv")(images))
  x = twice(twice(ops.relu(x)))
  x = keras.Sequential([keras.Input((6, 6, 6)), Inverted(6, 9, name="inner"), layers.ReLU()], name="row")(x)
  return keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)), name="functional")


def called(kind):
  """A model of a class, called on an example so that it is built."""
  model = kind()
  shapes = {"image": (8, 8, 3), "depth": (8, 8, 1)} if kind is TwoInputs else None
  model({name: ops.ones((2, *shape)) for name, shape in shapes.items()} if shapes else ops.ones((2, 8, 8, 3)))
  return model
