#!/usr/bin/env bash
# Stage 3: fine-tunes the small network of version 2 without a penalty and writes version 3.
# STAGE3_STEPS and STAGE3_LEARNING_RATE change the schedule; further flags go to cifar10-train.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec cifar10-train --model "$MODEL" --dataset "$DATASET" --train_dir "$TRAIN_DIR" --checkpoint_version 2 \
  --l1_penalty 0.0 --learning_rate "${STAGE3_LEARNING_RATE:-0.01}" --max_steps "${STAGE3_STEPS:-50000}" "$@"
