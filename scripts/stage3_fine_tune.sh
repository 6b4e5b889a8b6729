#!/usr/bin/env bash
# Stage 3: fine-tunes the small network of version 2 without a penalty and writes version 3.
# RECIPE names the schedule, STAGE3_STEPS and STAGE3_LEARNING_RATE change it; further flags go to cifar10-train.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train 2 ${STAGE3_STEPS:+--max_steps "$STAGE3_STEPS"} \
  ${STAGE3_LEARNING_RATE:+--learning_rate "$STAGE3_LEARNING_RATE"} "$@"
