"""The environment variable TF_CONFIG, which names the workers of a run, and the wait for them."""

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from typing import NamedTuple

REMINDER_SECONDS = 60
RESOLVE_SECONDS = 30
PROBE_SECONDS = 2
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)


class Cluster(NamedTuple):
  """The workers of a run, and which of them this process is.

  Attributes:
    workers: dict from "chief" or "worker" to addresses, texts `host:port`.
    type: which of the two this process is.
    index: its place among the addresses of its type.
  """

  workers: dict[str, list[str]]
  type: str
  index: int

  def addresses(self):
    """Dict from the name of each worker, "worker 1", to its address."""
    return {f"{type} {index}": address for type, them in self.workers.items() for index, address in enumerate(them)}

  def as_json(self):
    """What TensorFlow reads."""
    return json.dumps({"cluster": self.workers, "task": {"type": self.type, "index": self.index}})


def parse(text):
  """Reads and checks TF_CONFIG.

  Args:
    text: its value.

  Returns:
    A `Cluster`.

  Raises:
    ValueError: it is no JSON, names no place among workers, or an address that cannot be one; the message says what.
  """
  try:
    settings = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError("it is no JSON") from error
  _expect(isinstance(settings, dict), "it is no JSON object")
  workers, task = settings.get("cluster"), settings.get("task")
  _expect(isinstance(workers, dict) and workers, "cluster is no object with addresses")
  _expect(set(workers) <= {"chief", "worker"}, "cluster has other keys than chief and worker")
  for type, addresses in workers.items():
    _expect(isinstance(addresses, list) and addresses, f"{type} is no list of addresses")
    for address in addresses:
      _check_address(address)
  every = [address for addresses in workers.values() for address in addresses]
  _expect(len(set(every)) == len(every), "two workers have one address")
  _expect(len(workers.get("chief", [None])) == 1, "there is more than one chief")
  _expect(isinstance(task, dict) and isinstance(task.get("type"), str), "task is no object with a type and an index")
  _expect(task["type"] in workers, f"cluster has no {task['type']!r}")
  index = task.get("index")
  index = int(index) if isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index) else index
  _expect(
    isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(workers[task["type"]]),
    f"task has no index from 0 to {len(workers[task['type']]) - 1}",
  )
  rpc_layer = settings.get("rpc_layer", "grpc")
  _expect(rpc_layer in ("grpc", "", None), "rpc_layer is another than grpc")
  return Cluster(workers, task["type"], index)


def wait_for_names(cluster, seconds=RESOLVE_SECONDS):
  """Returns once the names of all hosts are known, which may take a while where these are just being started.

  Raises:
    ValueError: after so many seconds one is still unknown; the message says which.
  """
  hosts, end = {_host_and_port(address)[0] for address in cluster.addresses().values()}, time.monotonic() + seconds
  while hosts:
    host = min(hosts)
    try:
      socket.getaddrinfo(host, None)
      hosts.remove(host)
    except (OSError, UnicodeError) as error:
      if time.monotonic() >= end:
        raise ValueError(f"the name of the host {host!r} is not known") from error
      time.sleep(min(1, seconds))


@contextlib.contextmanager
def reminders(cluster, seconds=REMINDER_SECONDS):
  """Has stderr told every so many seconds which workers are still waited for.

  Another process does that: while TensorFlow waits, no other thread of this one has a turn.
  """
  command = [sys.executable, "-m", "cifar10.training.tf_config", str(seconds)]
  environment = {**os.environ, "TF_CONFIG": cluster.as_json()}
  # It ends where its input does, however this process ends.
  with subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
  ):
    yield


def main():
  """Reminds every so many seconds, the one argument, until the input ends."""
  cluster = parse(os.environ["TF_CONFIG"])
  while not select.select([sys.stdin], [], [], float(sys.argv[1]))[0]:
    absent = ", ".join(_absent(cluster)) or "workers that answer but have not begun"
    print(f"{cluster.type} {cluster.index} still waits for {absent}.", file=sys.stderr, flush=True)


def _absent(cluster):
  """The other workers that answer at no address, each with why not."""
  for name, address in cluster.addresses().items():
    if name != f"{cluster.type} {cluster.index}":
      try:
        socket.create_connection(_host_and_port(address), PROBE_SECONDS).close()
      except OSError as error:
        yield f"{name} at {address} ({error.strerror or error})"


def _host_and_port(address):
  host, _, port = address.rpartition(":")
  return host.strip("[]"), int(port)


def _check_address(address):
  match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
  _expect(match, f"{str(address)[:100]!r} is no address host:port")
  _expect(1024 <= int(match[2]) <= 65535, f"the port of {address!r} is not from 1024 to 65535")


def _expect(condition, otherwise):
  if not condition:
    raise ValueError(otherwise)


if __name__ == "__main__":
  main()
