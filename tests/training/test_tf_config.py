import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cifar10.errors import UserError
from cifar10.training import tf_config, workers


def config(workers=("a:2222", "b:2222"), task=None, **others):
  task = {"type": "worker", "index": 0} if task is None else task
  return json.dumps({"cluster": {"worker": workers}, "task": task, **others})


def of_index(index):
  return config(task={"type": "worker", "index": index})


REFUSED = {
  "": "no JSON",
  "{": "no JSON",
  "[" * 100000: "no JSON",
  '{"cluster":' * 50000: "no JSON",
  "[]": "no JSON object",
  "7": "no JSON object",
  "null": "no JSON object",
  '{"cluster": {}}': "cluster is no object",
  '{"cluster": [1], "task": {}}': "cluster is no object",
  config("a:2222,b:2222"): "worker is no list",
  config(7): "worker is no list",
  config([]): "worker is no list",
  config({"a:2222": 1}): "worker is no list",
  config([None, "b:2222"]): "'None' is no address",
  config([1, 2]): "'1' is no address",
  config([["a:2222"], "b:2222"]): "is no address",
  config(["a", "b:2222"]): "'a' is no address",
  config(["a:0", "b:2222"]): "the port of 'a:0' is not from 1024",
  config(["a:1", "b:2222"]): "port of 'a:1'",
  config(["a:99999", "b:2222"]): "port of 'a:99999'",
  config(["a:-5", "b:2222"]): "is no address",
  config(["a:1e3", "b:2222"]): "is no address",
  config(["a b:2222", "b:2222"]): "'a b:2222' is no address",
  config([":2222", "b:2222"]): "is no address",
  config(["a:2222", "a:2222"]): "two workers have one address",
  config(task=[]): "task is no object",
  config(task={"type": ["worker"], "index": 0}): "task is no object",
  config(task={"type": "worker"}): "task has no index from 0 to 1",
  of_index(2): "no index",
  of_index(-1): "no index",
  of_index("1e400"): "no index",
  of_index(None): "no index",
  of_index(0.5): "no index",
  of_index(True): "no index",
  of_index([0]): "no index",
  of_index(0).replace('"index": 0', '"index": 1e400'): "no index",
  config(task={"type": "ps", "index": 0}): "cluster has no 'ps'",
  config(rpc_layer=7): "rpc_layer",
  config(rpc_layer=["grpc"]): "rpc_layer",
  config(rpc_layer={}): "rpc_layer",
  config(rpc_layer="http"): "rpc_layer",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_names_no_place_among_workers_is_one_sentence(text, reason, monkeypatch):
  monkeypatch.setenv("TF_CONFIG", text)
  with pytest.raises(UserError, match="the environment variable TF_CONFIG is .* expects .*cluster") as error:
    workers.open_strategy("multi_worker")
  assert reason in str(error.value)
  assert len(str(error.value)) < 2000
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
  ("text", "type", "index"),
  [
    (config(), "worker", 0),
    (of_index("1"), "worker", 1),
    (config(["10.0.0.1:65535", "[::1]:1024"], rpc_layer="grpc", environment="cloud"), "worker", 0),
    ('{"cluster": {"chief": ["a:2222"], "worker": ["b:2222"]}, "task": {"type": "chief", "index": 0}}', "chief", 0),
  ],
)
def test_what_names_a_place_is_taken(text, type, index):
  cluster = tf_config.parse(text)
  assert (cluster.type, cluster.index) == (type, index)
  assert tf_config.parse(cluster.as_json()) == cluster
  assert len(cluster.addresses()) == 2


def test_a_name_that_stays_unknown_is_one_sentence(monkeypatch):
  asked = []

  def unknown(host, port):
    asked.append(host)
    if host == "b" or len(asked) < 3:
      raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

  monkeypatch.setattr(socket, "getaddrinfo", unknown)
  monkeypatch.setattr(time, "sleep", lambda _: None)
  with pytest.raises(ValueError, match="the name of the host 'b' is not known"):
    tf_config.wait_for_names(tf_config.parse(config()), seconds=0.05)
  assert asked[:3] == ["a", "a", "a"]
  tf_config.wait_for_names(tf_config.parse(config(["a:2222"])))
  monkeypatch.setenv("TF_CONFIG", config())
  monkeypatch.setattr(tf_config.wait_for_names, "__defaults__", (0.05,))
  with pytest.raises(UserError, match="TF_CONFIG is .*the name of the host 'b' is not known"):
    workers.open_strategy("multi_worker")


WAIT = """
import time
from cifar10.training import tf_config
cluster = tf_config.parse(tf_config.os.environ["TF_CONFIG"])
with tf_config.reminders(cluster, 0.2):
  print("waits", flush=True)
  time.sleep(60)
"""


def test_those_who_do_not_come_are_named_until_the_waiting_process_ends():
  with socket.create_server(("localhost", 0)) as server, socket.create_server(("localhost", 0)) as closed:
    there, absent = (f"localhost:{each.getsockname()[1]}" for each in (server, closed))
    closed.close()
    environment = {**os.environ, "TF_CONFIG": config(["localhost:2222", there, absent])}
    process = subprocess.Popen(
      [sys.executable, "-c", WAIT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
      line = process.stderr.readline()
      process.send_signal(signal.SIGKILL)
      process.stderr.read()  # Ends when the reminding process does.
  assert line == f"worker 0 still waits for worker 2 at {absent} (Connection refused).\n"


def test_reminders_end_with_the_wait(capfd):
  with tf_config.reminders(tf_config.parse(config()), 1000):
    pass
  assert capfd.readouterr().err == ""
