"""Reads a pickled dict of arrays, bytes, texts, whole numbers, lists, tuples and dicts, without unpickling it.

`pickle.load` calls whatever a file names. This goes through the opcodes, which `pickletools.genops` tells apart and
does not run, and makes of them what CIFAR-10's files hold: nothing is imported or called by a name from the file. The
names that NumPy's arrays of uint8 are pickled with are known, and all others refused.
"""

import enum
import math
import pickletools

import numpy as np

MOST_OPCODES = 1 << 18  # A published file has some 40,000; each costs up to 100 bytes.
MOST_DIMENSIONS = 4


class _Named(enum.Enum):
  """What a file may name, and the one dtype."""

  RECONSTRUCT = enum.auto()
  FROM_BUFFER = enum.auto()
  ARRAY = enum.auto()
  DTYPE = enum.auto()
  UINT8 = enum.auto()
  ENCODE = enum.auto()


_NAMES = {
  "numpy.core.multiarray _reconstruct": _Named.RECONSTRUCT,
  "numpy._core.multiarray _reconstruct": _Named.RECONSTRUCT,
  "numpy.core.numeric _frombuffer": _Named.FROM_BUFFER,
  "numpy._core.numeric _frombuffer": _Named.FROM_BUFFER,
  "numpy ndarray": _Named.ARRAY,
  "numpy dtype": _Named.DTYPE,
  "_codecs encode": _Named.ENCODE,
}


class _Array:
  """An array that the file makes empty, and fills afterwards."""

  value = None


def read(content):
  """What a pickle of any protocol holds.

  Time and memory are bounded by the length of the content, and by `MOST_OPCODES`.

  Args:
    content: bytes of the file.

  Returns:
    A dict with bytes or texts as keys. The strings of Python 2 are bytes; arrays are of uint8, and read-only.

  Raises:
    ValueError: the content is damaged, or holds anything else.
  """
  try:
    pickled = _of_type(_Machine(content).run(), dict)
    return {key: value.value if isinstance(value, _Array) else value for key, value in pickled.items()}
  except Exception as error:  # Damage shows as any of a dozen types.
    raise ValueError(str(error) or type(error).__name__) from error


class _Machine:
  """The stack on which a pickle puts together what it holds."""

  def __init__(self, content):
    self.content = content
    self.stack = []
    self.below = []  # For each mark, the stack that it stands on.
    self.memo = {}
    self.bytes_left = len(content)  # That may be copied.

  def run(self):
    for count, (opcode, argument, _) in enumerate(pickletools.genops(self.content)):
      if count == MOST_OPCODES:
        raise ValueError(f"it has more than {MOST_OPCODES} opcodes")
      if opcode.name == "STOP":
        break
      self.step(opcode.name, argument)
    (value,) = self.stack
    return value

  def step(self, name, argument):
    match name:
      case "PROTO" | "FRAME":
        pass
      case "MARK":
        self.below.append(self.stack)
        self.stack = []
      case "PUT" | "BINPUT" | "LONG_BINPUT":
        self.memo[argument] = self.stack[-1]
      case "MEMOIZE":
        self.memo[len(self.memo)] = self.stack[-1]
      case "APPEND":
        self.extend(self.pop(1))
      case "APPENDS":
        self.extend(self.pop_to_mark())
      case "SETITEM":
        self.update(self.pop(2))
      case "SETITEMS":
        self.update(self.pop_to_mark())
      case "BUILD":
        self.build(*self.pop(1))
      case _:
        value = self.made(name, argument)  # Which may change the stack.
        self.stack.append(value)

  def made(self, name, argument):
    match name:
      case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
        return argument
      case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
        return argument
      case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
        return argument.encode("latin-1")  # As which `genops` has decoded them.
      case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
        return bytes(argument)
      case "NONE":
        return None
      case "NEWTRUE" | "NEWFALSE":
        return name == "NEWTRUE"
      case "EMPTY_LIST":
        return []
      case "LIST":
        return list(self.pop_to_mark())
      case "EMPTY_DICT":
        return {}
      case "DICT":
        return _paired(self.pop_to_mark())
      case "EMPTY_TUPLE":
        return ()
      case "TUPLE":
        return tuple(self.pop_to_mark())
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        return self.pop(int(name[-1]))
      case "GET" | "BINGET" | "LONG_BINGET":
        return self.memo[argument]
      case "GLOBAL":
        return _named(argument)
      case "STACK_GLOBAL":
        return _named("{} {}".format(*(_of_type(part, str) for part in self.pop(2))))
      case "REDUCE":
        return self.called(*self.pop(2))
    raise ValueError(f"it has the opcode {name}")

  def called(self, function, arguments):
    match function, arguments:
      case _Named.ENCODE, (str() as text, "latin1"):
        return self.counted(text.encode("latin-1"))
      case _Named.DTYPE, ("u1" | b"u1", *_):
        return _Named.UINT8
      case _Named.RECONSTRUCT, (_Named.ARRAY, (0,), b"b"):
        return _Array()
      case _Named.FROM_BUFFER, (bytes() as content, _Named.UINT8, tuple() as shape, "C" | "F" as order):
        return _array(content, shape, order)
    raise ValueError("it calls for something else than an array of uint8")

  def build(self, state):
    match self.stack[-1], state:
      case _Named.UINT8, tuple():
        pass  # The order of the bytes of a number, which has one.
      case _Array() as made, (_, tuple() as shape, _Named.UINT8, bool() as by_columns, bytes() as content):
        made.value = _array(content, shape, "F" if by_columns else "C")
      case _:
        raise ValueError("it builds something else than an array of uint8")

  def pop(self, count):
    if len(self.stack) < count:
      raise ValueError("it takes more than it has made")
    popped = tuple(self.stack[-count:])
    del self.stack[-count:]
    return popped

  def pop_to_mark(self):
    popped, self.stack = self.stack, self.below.pop()
    return popped

  def extend(self, values):
    _of_type(self.stack[-1], list).extend(values)

  def update(self, values):
    _of_type(self.stack[-1], dict).update(_paired(values))

  def counted(self, copy):
    self.bytes_left -= len(copy)
    if self.bytes_left < 0:
      raise ValueError("it has the same bytes copied again and again")
    return copy


def _named(name):
  if name not in _NAMES:
    raise ValueError(f"it names {name[:100]!r}")
  return _NAMES[name]


def _paired(values):
  # No numbers as keys: somebody could choose such as get into each other's way in a dict.
  keys = [key for key in values[::2] if isinstance(key, str | bytes)]
  return dict(zip(keys, values[1::2], strict=True))


def _of_type(value, kind):
  if not isinstance(value, kind):
    raise ValueError(f"it has a {type(value).__name__} in the place of a {kind.__name__}")
  return value


def _array(content, shape, order):
  sizes = len(shape) <= MOST_DIMENSIONS and all(type(size) is int and 0 <= size <= len(content) for size in shape)
  if not sizes or math.prod(shape) != len(content):
    raise ValueError(f"it has an array of {len(content)} bytes with another shape")
  return np.frombuffer(content, np.uint8).reshape(shape, order=order)
