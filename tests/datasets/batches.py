"""Small batches of CIFAR-10, and what Python and NumPy of several ages make of them."""

import pickle

import numpy as np

RECORDS = 20


def as_python_2(batch):
  """The bytes of a batch, `data` and `labels`, as the published files have them: Python 2's, of protocol 2."""
  data = batch["data"].tobytes()
  labels = b"".join(b"K" + bytes([label]) for label in batch["labels"])
  return (
    b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(%be"
    b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01"
    b"M%bM\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
    b"\x00tb\x89T%b%btbU\x09filenamesq\x0c]q\x0d(U\x05a.pngq\x0eU\x05b.pngq\x0feu."
  ) % (labels, len(batch["labels"]).to_bytes(2, "little"), len(data).to_bytes(4, "little"), data)


PICKLED = {
  "Python 2": as_python_2,
  **{f"protocol {number}": lambda batch, number=number: pickle.dumps(batch, number) for number in range(6)},
  **{
    f"protocol {number}, bytes as keys": lambda batch, number=number: pickle.dumps(
      {name.encode(): value for name, value in batch.items()}, number
    )
    for number in (2, 4)
  },
  "NumPy 1": lambda batch: pickle.dumps(batch, 3).replace(b"numpy._core", b"numpy.core"),
}


def random_batch(seed=0):
  """What a pickled file holds."""
  rng = np.random.default_rng(seed)
  labels = [int(label) for label in rng.integers(0, 10, RECORDS)]
  return {"data": rng.integers(0, 256, (RECORDS, 3072), np.uint8), "labels": labels, "filenames": ["a.png"] * RECORDS}
