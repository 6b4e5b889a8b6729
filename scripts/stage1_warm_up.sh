#!/usr/bin/env bash
# Stage 1: trains from scratch with a small penalty (version 0) and writes version 1.
# STAGE1_STEPS and STAGE1_PENALTY change the schedule; further flags go to cifar10-train.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec cifar10-train --model "$MODEL" --dataset "$DATASET" --train_dir "$TRAIN_DIR" --checkpoint_version 0 \
  --l1_penalty "${STAGE1_PENALTY:-0.001}" --max_steps "${STAGE1_STEPS:-30000}" "$@"
