#!/usr/bin/env bash
# Stage 2: trains version 1 with a larger penalty, which shuts channels, and writes the smaller version 2.
# STAGE2_STEPS and STAGE2_PENALTY change the schedule; further flags go to cifar10-train.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec cifar10-train --model "$MODEL" --dataset "$DATASET" --train_dir "$TRAIN_DIR" --checkpoint_version 1 \
  --l1_penalty "${STAGE2_PENALTY:-0.005}" --max_steps "${STAGE2_STEPS:-50000}" "$@"
