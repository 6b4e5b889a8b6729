"""What `prune` makes of the networks of keras.applications, with random weights, at half of their multiply-adds.

python scripts/prune_applications.py [--network MobileNetV2] [--share 0.5] [--multiple_of 8]
"""

import argparse
import time

from cifar10.console import table, table_row
from cifar10.quiet import quietly

with quietly("3"):
  import keras
  from applications import NETWORKS, shut_at_random

  from cifar10.pruning import plan_prune

SHARE = 0.5
NETWORKS = NETWORKS | {"VGG16": keras.applications.VGG16}


def network(name, **arguments):
  """A network with random weights, batch norms' too."""
  model = NETWORKS[name](weights=None, **arguments)
  shut_at_random(model, share=0.0)
  return model


def main():
  """Prints a table of parameters and multiply-adds before and after, the time, and how many walls, or the least."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--network", choices=NETWORKS, help="only this one")
  parser.add_argument("--share", type=float, default=SHARE, help="of the multiply-adds")
  parser.add_argument("--multiple_of", type=int, default=1, help="of widths")
  arguments = parser.parse_args()
  columns = ["parameters, M", "pruned", "multiply-adds, M", "pruned", "share", "seconds", "walls"]
  print(table(["network", *columns]))
  for name in [arguments.network] if arguments.network else NETWORKS:
    keras.backend.clear_session()
    model = network(name)
    start = time.monotonic()
    try:
      report = plan_prune(model, multiply_adds=arguments.share, multiple_of=arguments.multiple_of)
    except ValueError as error:
      seconds, remark = time.monotonic() - start, str(error)
      figures = [f"{model.count_params() / 1e6:.2f}", "", "", "", ""]
    else:
      seconds, remark = time.monotonic() - start, len(report.walls)
      counts = [report.parameters_before, report.parameters_after]
      products = [report.multiply_adds_before, report.multiply_adds_after]
      figures = [f"{count / 1e6:.2f}" for count in counts] + [f"{product / 1e6:.0f}" for product in products]
      figures.append(f"{products[1] / products[0]:.4f}")
    print(table_row([name, *figures, f"{seconds:.1f}", str(remark)]), flush=True)


if __name__ == "__main__":
  main()
