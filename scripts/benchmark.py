"""Measures in one run how fast this machine trains, evaluates and predicts, full networks and squeezed ones.

python scripts/benchmark.py [--parts steps,loop,evaluation,inference,pruned] [--dataset cifar10] [--json FILE]

Times are medians, with the fastest and the slowest, after a warm-up; what is to be compared takes turns, so that a busy
machine slows all of it alike. The squeezed resnet20 has 0.64 of the multiply-adds of the full one, the pruned ones at
most as many. Needs the extra `export` for LiteRT and ONNX.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from cifar10.config import DATASETS
from cifar10.console import table, table_row
from cifar10.quiet import quietly

with quietly():
  import keras
  import tensorflow as tf

  from cifar10.batch_norm import fused
  from cifar10.evaluate import precision_and_loss
  from cifar10.export import FILES, load, served_model, write
  from cifar10.input_pipeline import load as load_data
  from cifar10.input_pipeline import standardize
  from cifar10.models import resnet20
  from cifar10.pruning import fold_batch_norms, multiply_adds, prune, squeeze
  from cifar10.pruning.timing import seconds_in_turns
  from cifar10.version.metrics import read_metrics

BATCH_SIZE = 125
MATRIX_SIZE = 4096
DTYPE_POLICIES = ("float32", "mixed_bfloat16")
SQUEEZED_WIDTHS = {
  "g0b0c0": 13,
  "g0b1c0": 9,
  "g0b2c0": 6,
  "g1b0c0": 29,
  "g1b1c0": 23,
  "g1b2c0": 21,
  "g2b0c0": 45,
  "g2b1c0": 35,
  "g2b2c0": 26,
}
ROUNDINGS = (1, 8, 16)
PUBLISHED = pathlib.Path(__file__).parent.parent / "cifar10/published/resnet20_1/model.keras"
PRUNED_SHARE = 0.64
RUNTIMES = {"TensorFlow": "saved_model", "LiteRT": "litert", "ONNX Runtime": "onnx"}


def main():
  """Prints a table for each part."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--parts", default=",".join(PARTS), help="some of them, separated by commas")
  parser.add_argument("--dataset", default="synthetic", choices=DATASETS, help="of the training loop")
  parser.add_argument("--steps", type=int, default=300, help="steps of the training loop")
  parser.add_argument("--rounds", type=int, default=15, help="how often everything else is timed")
  parser.add_argument("--json", type=pathlib.Path, help="file for all rows, in seconds")
  arguments = parser.parse_args()
  parts = arguments.parts.split(",")
  unknown = set(parts) - set(PARTS)
  if unknown:
    parser.error(f"--parts has {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
  if arguments.steps < 20 or arguments.rounds < 1:
    parser.error("--steps is a whole number from 20, --rounds one from 1")
  print(f"{os.cpu_count()} cores, batches of {BATCH_SIZE}, TensorFlow {tf.__version__}\n", flush=True)
  rows = [row for part in parts for row in PARTS[part](arguments)]
  if arguments.json:
    arguments.json.write_text(json.dumps(rows, indent=1))


def steps(arguments):
  """Gradient steps without input, beside matrix products, the limit of what the machine can do."""
  networks = {}
  for name, network in plain_networks().items():
    networks[f"{name}, float32, Keras' own batch norm"] = network
    for policy in DTYPE_POLICIES:
      networks[f"{name}, {policy}"] = fused(network, policy)
  work = {name: training_operations(network) for name, network in networks.items()}
  functions = {name: gradient_step(network) for name, network in networks.items()}
  work["full, float32, by XLA"] = work["full, float32"]
  functions["full, float32, by XLA"] = gradient_step(networks["full, float32"], jit_compile=True)
  for dtype in ("float32", "bfloat16"):
    functions[f"matrix product, {dtype}"] = matrix_product(dtype)
    work[f"matrix product, {dtype}"] = 2 * MATRIX_SIZE**3
  rows = timed(functions, arguments.rounds)
  print_table("training step, no input", rows, work)
  return rows


def loop(arguments):
  """`cifar10-train` as users run it: input, logging, averages and penalty included."""
  network = resnet20()
  functions = {f"{policy}, no input": gradient_step(fused(network, policy)) for policy in DTYPE_POLICIES}
  functions["matrix product, float32"] = matrix_product("float32")
  found = [seconds_in_turns(functions, arguments.rounds)]
  rows = []
  for policy in DTYPE_POLICIES:
    seconds, others = train(policy, arguments)
    rows.append(row(f"{policy}, cifar10-train", seconds) | others)
    found.append(seconds_in_turns(functions, arguments.rounds))
  rows += [row(name, [second for each in found for second in each[name]]) for name in functions]
  work = dict.fromkeys([each["name"] for each in rows], training_operations(network))
  work["matrix product, float32"] = 2 * MATRIX_SIZE**3
  print_table("a step of the full network", rows, work)
  for each in rows:
    if "peak_bytes" in each:
      print(
        f"{each['name']}: {each['to_first_step']:.1f} s from start to the first console line, "
        f"{each['peak_bytes'] / 2**30:.2f} GiB at most"
      )
  print(flush=True)
  return rows


def evaluation(arguments):
  """10,000 images through the network, each once, as cifar10-eval does it."""
  examples = load_data("synthetic", "test")
  networks = plain_networks()
  functions = {
    f"{name}, 10,000 images": lambda network=network: precision_and_loss(network, examples, BATCH_SIZE)
    for name, network in networks.items()
  }
  work = {
    name: 2 * multiply_adds(network) * len(examples.labels) for name, network in zip(functions, networks.values())
  }
  for name, network in networks.items():
    functions[f"{name}, the forward pass alone"] = forward_pass(network, examples.images)
    work[f"{name}, the forward pass alone"] = work[f"{name}, 10,000 images"]
  functions["matrix product, float32"] = matrix_product("float32")
  work["matrix product, float32"] = 2 * MATRIX_SIZE**3
  rows = timed(functions, max(3, arguments.rounds // 3))
  print_table("evaluation", rows, work)
  return rows


def inference(arguments):
  """Full and squeezed networks by three runtimes; widths rounded up."""
  return by_runtime(arguments, plain_networks())


def pruned(arguments):
  """Full and pruned networks by three runtimes; widths rounded to the nearer multiple."""
  return by_runtime(arguments, pruned_networks())


def by_runtime(arguments, networks):
  """Networks, batch norms folded, by three runtimes."""
  work = {name: multiply_adds(network) for name, network in networks.items()}
  rows = []
  by_size = [name for size in (1, BATCH_SIZE) for name in (f"batch {size}", "of full", "saved")]
  print(table(["runtime", "network", "multiply-adds", "of full", *by_size]))
  with tempfile.TemporaryDirectory() as workplace:
    for runtime, format_name in RUNTIMES.items():
      runs = {}
      for name, network in networks.items():
        path = pathlib.Path(workplace, f"{len(runs)}_{FILES[format_name]}")
        write(served_model(fold_batch_norms(network), "standardized", softmax=False), format_name, path, None)
        runs[name] = load(format_name, path)
      by_batch = []
      for batch_size in (1, BATCH_SIZE):
        images = tf.random.stateless_normal((batch_size, 32, 32, 3), [0, 0]).numpy()
        functions = {name: lambda run=run, images=images: run(images) for name, run in runs.items()}
        by_batch.append(timed(functions, arguments.rounds * (10 if batch_size == 1 else 2)))
      rows += print_inference(runtime, work, by_batch)
  print("\nsaved: share of the multiply-adds saved that turned into time saved\n", flush=True)
  return rows


PARTS = {"steps": steps, "loop": loop, "evaluation": evaluation, "inference": inference, "pruned": pruned}


def plain_networks():
  """The full network and the squeezed ones by name, in standard Keras layers."""
  return {"full": resnet20()} | {f"squeezed, widths of {each}": squeezed_resnet20(each) for each in ROUNDINGS}


def pruned_networks():
  """The full network and the pruned ones by name."""
  return {"full": resnet20()} | {f"pruned, widths of {each}": pruned_resnet20(each) for each in ROUNDINGS}


def squeezed_resnet20(multiple_of):
  """A resnet20 whose gammas but the first `SQUEEZED_WIDTHS` are 0, squeezed to multiples."""
  network = resnet20()
  for name, width in SQUEEZED_WIDTHS.items():
    gamma = network.get_layer(f"{name}_bn").gamma
    gamma.assign(tf.cast(tf.range(gamma.shape[0]) < width, tf.float32))
  return squeeze(network, multiple_of=multiple_of)[0]


def pruned_resnet20(multiple_of):
  """The published, sparsely trained resnet20, pruned to 0.64 of its multiply-adds."""
  network = keras.saving.load_model(PUBLISHED)
  return prune(network, multiply_adds=PRUNED_SHARE, multiple_of=multiple_of, verify=False)[0]


def training_operations(network):
  """Of a step: a multiply and an add, for the forward pass and both backward ones."""
  return 2 * 3 * multiply_adds(network) * BATCH_SIZE


def matrix_product(dtype):
  """A function that multiplies two square matrices."""
  first, second = (tf.cast(tf.random.stateless_normal([MATRIX_SIZE] * 2, [0, i]), dtype) for i in range(2))
  product = tf.function(lambda: tf.matmul(first, second))
  return lambda: product()[0, 0].numpy()


def gradient_step(network, jit_compile=None):
  """A function that takes one step of plain SGD on one batch of noise."""
  images = tf.random.stateless_normal((BATCH_SIZE, 32, 32, 3), [0, 0])
  labels = tf.random.stateless_uniform((BATCH_SIZE,), [0, 1], 0, 10, tf.int32)
  variables = [variable.value for variable in network.trainable_variables]

  @tf.function(jit_compile=jit_compile)
  def step():
    with tf.GradientTape() as tape:
      logits = tf.cast(network(images, training=True), tf.float32)
      loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
      variable.assign_sub(0.01 * gradient)
    return loss

  return lambda: step().numpy()


def forward_pass(network, images):
  """A function that sends images through the network as `precision_and_loss` does, once it is traced."""
  network = fold_batch_norms(network)
  outputs = tf.function(lambda batch: network(standardize(batch), training=False))
  batches = [tf.constant(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE)]
  return lambda: [outputs(batch) for batch in batches][-1].numpy()


def train(policy, arguments):
  """Runs cifar10-train: the seconds of a step, one figure for every ten; and its start and peak memory for the row."""
  with tempfile.TemporaryDirectory() as workplace, open(f"{workplace}/errors", "w+") as errors:
    flags = {
      "dataset": arguments.dataset,
      "train_dir": f"{workplace}/run",
      "precision": policy,
      "max_steps": arguments.steps + 1,
      "log_frequency": 10,
      "squeeze_model": False,
      "batch_size": BATCH_SIZE,
      "seed": 1,
    }
    command = [sys.executable, "-m", "cifar10.cli.train", *(f"--{name}={value}" for name, value in flags.items())]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
      lines = iter(process.stdout.readline, "")
      any(": step 0," in line for line in lines)
      to_first_step = time.monotonic() - start
      for _ in lines:
        pass
      _, status, usage = os.wait4(process.pid, 0)
      process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
      errors.seek(0)
      sys.exit(errors.read())
    rates = [row["examples_per_second"] for row in read_metrics(pathlib.Path(workplace, "run_0"))]
  others = {"to_first_step": to_first_step, "peak_bytes": usage.ru_maxrss * 1024}
  return [BATCH_SIZE / rate for rate in rates[2:]], others


def timed(functions, rounds):
  """A row for each of the functions, which take turns."""
  return [row(name, found) for name, found in seconds_in_turns(functions, rounds).items()]


def row(name, seconds):
  """What the tables and the JSON file hold of one measurement."""
  return {"name": name, "median": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


def limit(rows):
  """Operations a second of the float32 matrix product."""
  return 2 * MATRIX_SIZE**3 / next(row["median"] for row in rows if row["name"] == "matrix product, float32")


def print_table(title, rows, work):
  """Prints times, rates, and their share of the limit."""
  most = limit(rows)
  print(table([title, "ms", "fastest to slowest", "GFLOP", "GFLOP/s", "of the float32 limit"]))
  for each in rows:
    operations = work[each["name"]]
    each |= {"operations": operations, "of_limit": operations / each["median"] / most}
    rates = [f"{operations / 1e9:.1f}", f"{operations / each['median'] / 1e9:.0f}", f"{each['of_limit']:.2f}"]
    print(table_row([each["name"], *milliseconds(each), *rates]))
  print(flush=True)


def print_inference(runtime, work, by_batch):
  """Prints the rows of one runtime, both batch sizes beside each other; returns them."""
  for single, batch in zip(*by_batch):
    name = single["name"]
    share = work[name] / work["full"]
    cells = [f"{work[name] / 1e6:.1f} M", f"{share:.2f}"]
    for each, rows in zip((single, batch), by_batch):
      each["of_full"] = each["median"] / rows[0]["median"]
      saved = f"{(1 - each['of_full']) / (1 - share):.2f}" if share < 1 else ""
      cells += [f"{each['median'] * 1000:.2f} ms", f"{each['of_full']:.2f}", saved]
    print(table_row([runtime, name, *cells]), flush=True)
  return [
    {**each, "runtime": runtime, "batch_size": batch_size, "multiply_adds": work[each["name"]]}
    for batch_size, rows in zip((1, BATCH_SIZE), by_batch)
    for each in rows
  ]


def milliseconds(each):
  """Two cells of a table."""
  return [f"{each['median'] * 1000:.1f}", f"{each['fastest'] * 1000:.1f} to {each['slowest'] * 1000:.1f}"]


if __name__ == "__main__":
  main()
