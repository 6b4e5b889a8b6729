"""What a stage trains on: one device, the devices of a host, or several hosts, by `tf.distribute`.

A replica is a copy of the network on one device. Each trains on an equal part of every batch; gradients are added up
over all of them, so all stay the same. A worker is one process of several. The chief, the first of them, alone logs,
saves and squeezes; the others do as it says, in exchanges that every worker takes part in.
"""

import contextlib
import functools
import os
import signal

import tensorflow as tf

from cifar10.errors import UserError, first_line
from cifar10.training import tf_config

_LOST = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.DeadlineExceededError,
  tf.errors.InternalError,
  tf.errors.FailedPreconditionError,
)
_CLUSTER = (
  '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}, with an index of '
  "its own for each"
)


def open_strategy(name, num_replicas=None):
  """Makes the strategy that a stage trains with; before any other use of TensorFlow, since it makes devices.

  Args:
    name: "one_device"; "mirrored", all GPUs of this host or, without one, parts of its CPU; or "multi_worker", the
      workers that the environment variable TF_CONFIG names.
    num_replicas: how many GPUs or parts of the CPU "mirrored" takes; by default all GPUs, or one part.

  Returns:
    A `tf.distribute.Strategy`.

  Raises:
    UserError: the devices or the workers are not there.
  """
  if name == "multi_worker":
    return _multi_worker()
  if name == "mirrored":
    return tf.distribute.MirroredStrategy(_local_devices(num_replicas))
  return tf.distribute.OneDeviceStrategy("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0")


def _local_devices(num_replicas):
  gpus = tf.config.list_physical_devices("GPU")
  if num_replicas is None:
    return None
  if not gpus:
    parts = [tf.config.LogicalDeviceConfiguration()] * num_replicas
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
  elif num_replicas > len(gpus):
    raise UserError(f"--num_replicas is {num_replicas}, but this host has {len(gpus)} GPUs; pass that many at most.")
  return [f"{'GPU' if gpus else 'CPU'}:{index}" for index in range(num_replicas)]


def _multi_worker():
  text = os.environ.get("TF_CONFIG", "")
  try:
    cluster = tf_config.parse(text)
    tf_config.wait_for_names(cluster)
  except ValueError as error:
    raise UserError(
      f"the environment variable TF_CONFIG is {text[:1000]!r} ({error}); --distribution_strategy multi_worker expects "
      f"{_CLUSTER}."
    ) from error
  # What is checked is what TensorFlow gets.
  os.environ["TF_CONFIG"] = cluster.as_json()
  try:
    with _ended_by_interrupt(), tf_config.reminders(cluster):
      print(f"{cluster.type} {cluster.index} waits for all of {len(cluster.addresses())} workers.", flush=True)
      return tf.distribute.MultiWorkerMirroredStrategy()
  except (tf.errors.OpError, RuntimeError, ValueError) as error:
    raise UserError(f"the workers that TF_CONFIG names cannot be reached ({first_line(error)}).") from error


@contextlib.contextmanager
def _ended_by_interrupt():
  """Lets SIGINT end the process at once, since Python's own handler has no turn while TensorFlow waits."""
  try:
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
      signal.signal(signal.SIGINT, signal.SIG_DFL)
  except ValueError:  # Only the main thread can choose.
    yield
    return
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


def is_chief(strategy):
  """Whether this process is the one that logs, saves and squeezes."""
  resolver = strategy.cluster_resolver
  if not resolver or not resolver.task_type:
    return True
  return resolver.task_id == 0 and (resolver.task_type == "chief" or "chief" not in resolver.cluster_spec().jobs)


def check_batch_size(batch_size, strategy):
  """Raises a `UserError` where the replicas cannot have equal parts of a batch."""
  replicas = strategy.num_replicas_in_sync
  if batch_size % replicas:
    below = batch_size // replicas * replicas
    fitting = f"{below} or {below + replicas}" if below else str(replicas)
    raise UserError(f"--batch_size {batch_size} cannot be split evenly over {replicas} replicas; pass {fitting}.")


def all_reduce_sum(strategy, *numbers):
  """Adds up what each worker gives, in turn for each number; every worker calls it and gets the sums, ints."""
  devices = len(strategy.extended.worker_devices)
  if strategy.num_replicas_in_sync == devices:
    return numbers
  first_only = [tf.constant(numbers, tf.int64)] + [tf.zeros(len(numbers), tf.int64)] * (devices - 1)
  values = strategy.experimental_distribute_values_from_function(
    lambda context: first_only[context.replica_id_in_sync_group % devices]
  )
  return tuple(int(number) for number in _summing(strategy)(values))


@functools.cache
def _summing(strategy):
  # Eagerly TensorFlow would leave threads behind where an exchange fails, and Python complain of them at its end.
  return tf.function(lambda values: strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None))


def broadcast(strategy, *numbers):
  """What the chief gave, ints; every worker calls it, with as many."""
  return all_reduce_sum(strategy, *(numbers if is_chief(strategy) else [0] * len(numbers)))


def on_each_replica(strategy, arrays):
  """Puts copies of a tuple of arrays on the device of each replica, for `strategy.run`."""

  def copies(context):
    with tf.device(strategy.extended.worker_devices[context.replica_id_in_sync_group % local]):
      return type(arrays)(*map(tf.constant, arrays))

  local = len(strategy.extended.worker_devices)
  return strategy.experimental_distribute_values_from_function(copies)


def barrier(strategy):
  """Returns once every worker has called it."""
  all_reduce_sum(strategy, 0)


@contextlib.contextmanager
def lost_workers_are_said(strategy):
  """Turns the failure of an exchange between workers into a `UserError`."""
  try:
    yield
  except _LOST as error:
    if len(strategy.extended.worker_devices) == strategy.num_replicas_in_sync:
      raise
    raise UserError(
      f"another worker has gone, or the exchange with it failed ({first_line(error)[:200]}); what is saved stays: "
      "see what the others said, and start all workers again to go on."
    ) from error


def half_precision():
  """The name of the half precision that suits the device: bfloat16 but on GPUs too old for it."""
  gpus = tf.config.list_physical_devices("GPU")
  capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
  return "mixed_float16" if any(capability < (8, 0) for capability in capabilities) else "mixed_bfloat16"
