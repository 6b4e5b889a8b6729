"""The reader of pickles: what it reads, what it refuses, and that nothing in a file makes it do anything else."""

import collections
import contextlib
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from batches import PICKLED, random_batch
from hypothesis import given
from hypothesis import strategies as st

from cifar10.datasets import pickles, python_files
from cifar10.errors import UserError

pytestmark = pytest.mark.usefixtures("small_files")


@pytest.mark.parametrize("form", PICKLED)
def test_batches_of_every_protocol_are_read(form):
  batch = random_batch()
  examples = python_files.parse(PICKLED[form](batch), "file")
  planes = batch["data"].reshape(-1, 3, 32, 32)
  np.testing.assert_array_equal(examples.images, planes.transpose(0, 2, 3, 1))
  np.testing.assert_array_equal(examples.labels, batch["labels"])
  assert (examples.images.dtype, examples.labels.dtype) == (np.uint8, np.int32)
  assert examples.images.flags.c_contiguous


@pytest.mark.parametrize("protocol", range(6))
def test_lists_tuples_dicts_numbers_and_arrays_by_columns_come_out_as_they_went_in(protocol):
  array = np.arange(12, dtype=np.uint8).reshape(3, 4)
  held = {"n": [0, 1, -1, 255, 256, 2**31, -(2**70), True, None], "t": (1, ("ä", b"\xff\x00"), (), (1, 2, 3, 4))}
  held |= {"d": {"": {}, b"k": []}, "twice": [held["n"], held["n"]], "long": "x" * 300, "bytes": b"y" * 300}
  by_columns = {"rows": array, "columns": np.asfortranarray(array)}
  read = pickles.read(pickle.dumps({**held, **by_columns}, protocol))
  for name, expected in by_columns.items():
    np.testing.assert_array_equal(read.pop(name), expected)
  assert read == held


class Runs:
  """Unpickled, it makes a directory."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_called(tmp_path, protocol):
  content = pickle.dumps({"data": Runs(str(tmp_path / "made"))}, protocol)
  with pytest.raises(ValueError, match=r"it names '(posix|nt) mkdir'"):
    pickles.read(content)
  assert not (tmp_path / "made").exists()
  pickle.loads(content)
  assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
  "value",
  [
    {"x": 1.5},
    {"x": 1j},
    {"x": {1}},
    {"x": np.float32(1)},
    {"x": np.zeros(3, np.float32)},
    {"x": np.zeros(3, object)},
    {"x": np.uint8(1)},
    {1: "x"},
    {(1, 2): "x"},
    {"x": collections.OrderedDict()},
    {"x": len},
    [1, 2],
    "text",
  ],
  ids=repr,
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_anything_else_is_refused(value, protocol):
  with pytest.raises(ValueError, match=".+"):
    pickles.read(pickle.dumps(value, protocol))


ENCODED = b"c_codecs\nencode\n(X\x00\x00\x10\x00" + b"x" * (1 << 20) + b"q\x01X\x06\x00\x00\x00latin1q\x02tR"
AGAIN = b"c_codecs\nencode\n(h\x01h\x02tR"
GREEDY = {
  "lengths that are not there": b"\x8e" + (1 << 62).to_bytes(8, "little") + b"x",
  "a place of the memo far away": b"}r\xff\xff\xff\xff.",
  "the same bytes again and again": b"\x80\x02](" + ENCODED + AGAIN * 10000 + b"e.",
  "many dicts": b"(" + b"}" * (1 << 17) + b"l.",
  "lists in lists": b"]" * (1 << 15) + b"a" * ((1 << 15) - 1) + b".",
  "tuples in tuples": b")" + b"\x85" * (1 << 15) + b".",
  "a large shape": b"}(X\x04\x00\x00\x00data"
  + pickle.dumps(np.zeros(1, np.uint8), 2)[2:-1].replace(b"K\x01\x85", b"J\xff\xff\xff\x7f\x85")
  + b"u.",
  "a large number": b"I" + b"9" * (1 << 20) + b"\n.",
}


@pytest.mark.parametrize("name", GREEDY)
def test_memory_is_bounded(name, monkeypatch):
  monkeypatch.setattr(pickles, "MOST_OPCODES", 1 << 16)
  tracemalloc.start()
  try:
    with contextlib.suppress(ValueError):
      pickles.read(GREEDY[name])
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 10 * len(GREEDY[name]) + 100 * pickles.MOST_OPCODES


def assert_read_or_refused(content):
  with contextlib.suppress(UserError) as refused:
    examples = python_files.parse(content, "file")
    assert examples.images.shape == (20, 32, 32, 3)
    assert examples.labels.max() < 10
  assert refused is None


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(content):
  with pytest.raises(UserError, match=r"^file cannot be read \(.*\); replace it by the published file\.$"):
    python_files.parse(content, "file")


@given(st.sampled_from(sorted(PICKLED)), st.data())
def test_mutated_batches_are_read_or_refused(form, data):
  content = bytearray(PICKLED[form](random_batch()))
  for _ in range(data.draw(st.integers(1, 4))):
    # Mostly where the opcodes stand that are not a number's or a pixel's.
    start = data.draw(st.integers(0, 250) | st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(start + 20, len(content))))
    content[start:stop] = data.draw(st.binary(max_size=20))
  assert_read_or_refused(bytes(content))


OPCODES = [
  *(b"(", b")", b"]", b"}", b"N", b"\x88", b"\x89", b"K\x01", b"K\x00", b"M\x00\x0c", b"J\xff\xff\xff\xff", b"q\x01"),
  *(b"h\x01", b"\x94", b"a", b"e", b"s", b"u", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"R", b"b", b".", b"0"),
  *(b"2", b"1", b"o", b"\x81", b"\x93", b"Pid\n", b"C\x03abc", b"U\x01b", b"X\x04\x00\x00\x00data"),
  *(b"X\x06\x00\x00\x00latin1", b"X\x02\x00\x00\x00u1", b"X\x01\x00\x00\x00C", b"cos\nsystem\n"),
  *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n"),
  b"cnumpy.core.numeric\n_frombuffer\n",
]


@given(st.lists(st.sampled_from(OPCODES), max_size=40))
def test_any_opcodes_are_read_or_refused(opcodes):
  with contextlib.suppress(ValueError):
    assert isinstance(pickles.read(b"".join(opcodes) + b"."), dict)


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"data": None}, "has no data of 20 images of 3072 bytes"),
    ({"data": np.zeros((20, 3071), np.uint8)}, "has no data of 20 images"),
    ({"data": np.zeros((19, 3072), np.uint8)}, "has no data of 20 images"),
    ({"labels": [0] * 19}, "has no 20 labels from 0 to 9"),
    ({"labels": [0] * 19 + [10]}, "has no 20 labels"),
    ({"labels": [0] * 19 + [-1]}, "has no 20 labels"),
    ({"labels": [0] * 19 + [True]}, "has no 20 labels"),
    ({"labels": None}, "has no 20 labels"),
  ],
)
def test_other_batches_are_one_sentence(change, sentence):
  with pytest.raises(UserError, match=f"^file {sentence}.*; replace it by the published file.$"):
    python_files.parse(pickle.dumps({**random_batch(), **change}), "file")
