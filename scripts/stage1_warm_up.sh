#!/usr/bin/env bash
# Stage 1: trains from scratch with a small penalty (version 0) and writes version 1.
# RECIPE names the schedule, STAGE1_STEPS and STAGE1_PENALTY change it; further flags go to cifar10-train.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train 0 ${STAGE1_STEPS:+--max_steps "$STAGE1_STEPS"} ${STAGE1_PENALTY:+--l1_penalty "$STAGE1_PENALTY"} "$@"
