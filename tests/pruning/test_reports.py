"""Tests of how cifar10.pruning.reports prints."""

import dataclasses
import doctest

import keras
from keras import layers

from cifar10.pruning import plan, printing, reports, squeeze
from cifar10.pruning.reports import Comparison, LayerReport, SelfCheck, SqueezeReport

CONV = LayerReport(channels=32, removed=7, kept_though_dead={"carrier": 1, "softening": 2})
LOGITS = LayerReport(channels=10, removed=0, kept_though_dead={})
COMPARISON = Comparison(1000, 4.8e-07, 1.6e-07, 0.9995, (57450, 30237), (1991296, None), (0.0261, 0.0235))


def report(**changed):
  given = {"layers": {"conv2d": CONV, "logits": LOGITS}, "gates": {}, "walls": ["softening"], **changed}
  return SqueezeReport(57450, 30237, 1991296, 1177864, **given)


def test_a_report_prints_as_a_table_with_what_it_found():
  text = str(report(notes=["it was compiled"], shared={"own": "a lock"}, check=SelfCheck(2, 1.6e-07)))
  assert (
    text
    == """\
parameters 57,450 -> 30,237 (47% fewer), multiply-adds 1,991,296 -> 1,177,864 (41% fewer)
7 of 42 channels went; dead, but kept: 3

layer   channels  gone  left  dead, but kept
conv2d        32     7    25  1 carrier, 2 softening
logits        10     0    10

carrier: stands for others whose constants cannot pass a padded border
softening: a layer through which channels cannot be followed
walls, through which no channel is followed: softening
own serves both models, since it has no copy: a lock
note: it was compiled
check: outputs for 2 examples differ by 1.6e-07 of their norm"""
  )


def test_what_is_empty_is_not_printed():
  text = str(report(layers={"logits": LOGITS}, walls=[]))
  assert text.splitlines()[1:] == [
    "0 of 10 channels went",
    "",
    "layer   channels  gone  left  dead, but kept",
    "logits        10     0    10",
  ]
  assert str(report(layers={}, walls=[])) == report(layers={}).summary()


def test_a_summary_says_what_is_not_known_and_what_grew():
  summary = SqueezeReport(100, 110, None, None, {}, {}, []).summary()
  assert summary.splitlines()[0] == (
    "parameters 100 -> 110 (10% more), multiply-adds unknown, since a size is not fixed"
  )
  assert "multiply-adds 0 -> 0 (0% fewer)" in SqueezeReport(100, 100, 0, 0, {}, {}, []).summary()


def test_a_comparison_prints_both_models_beside_each_other():
  assert str(COMPARISON).splitlines() == [
    "                   first   second",
    "parameters        57,450   30,237",
    "multiply-adds  1,991,296  unknown",
    "milliseconds        26.1     23.5",
    "outputs for 1,000 examples differ by 4.8e-07 at most, 1.6e-07 of their norm; the largest class agrees in 99.95%",
  ]
  assert "class" not in str(dataclasses.replace(COMPARISON, agreement=None))


def test_a_comparison_is_part_of_the_report_of_a_threshold():
  text = str(report(comparison=COMPARISON))
  assert text.endswith(f"outputs changed:\n{COMPARISON}")


def test_a_check_says_why_it_was_not_made_or_put_up_with():
  assert str(SelfCheck(0, None, "it takes text")) == "not called: it takes text"
  assert str(SelfCheck(2, 0.5, "two calls differ")).endswith("differ by 0.5 of their norm (two calls differ)")
  assert "more than a finite number" in str(SelfCheck(2, None))


def test_all_layers_of_a_model_are_in_the_table(shut):
  images = keras.Input((8, 8, 3))
  x = layers.Conv2D(6, 3, use_bias=False, name="a")(images)
  x = layers.ReLU()(layers.BatchNormalization(name="a_bn")(x))
  model = keras.Model(images, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x)))
  shut(model, "a_bn", [1, 4])
  _, found = squeeze(model)
  lines = str(found).splitlines()
  assert [line.split() for line in lines[4:6]] == [["a", "6", "2", "4"], ["logits", "2", "0", "2"]]
  assert lines[-1].startswith("check: outputs for 2 examples differ by")
  assert str(plan(model)) in str(found)


def test_examples():
  for module in (printing, reports):
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)
    assert doctest.testmod(module).attempted > 0
