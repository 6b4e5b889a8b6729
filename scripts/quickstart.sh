#!/usr/bin/env bash
# Sets up .venv and runs the three-stage chain of resnet20 on the built-in data set, in some minutes on a CPU.
# Starts afresh each time, in checkpoints/quickstart_0 to _3.
set -euo pipefail
unset STAGE1_STEPS STAGE2_STEPS STAGE3_STEPS STAGE1_PENALTY STAGE2_PENALTY STAGE3_LEARNING_RATE
export TRAIN_DIR=checkpoints/quickstart DATASET=synthetic MODEL=resnet20 RECIPE=quickstart
here="$(dirname "${BASH_SOURCE[0]}")"
"$here/install.sh"
source "$here/common.sh"
rm -rf "$TRAIN_DIR"_{0,1,2,3}
scripts/reproduce.sh
cifar10-table "$TRAIN_DIR" --min_reduction 0.2 --min_precision 0.9 --of 1,2,3 >/dev/null
