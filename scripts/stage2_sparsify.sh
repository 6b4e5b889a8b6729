#!/usr/bin/env bash
# Stage 2: trains version 1 with a larger penalty, which shuts channels, and writes the smaller version 2.
# RECIPE names the schedule, STAGE2_STEPS and STAGE2_PENALTY change it; further flags go to cifar10-train.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train 1 ${STAGE2_STEPS:+--max_steps "$STAGE2_STEPS"} ${STAGE2_PENALTY:+--l1_penalty "$STAGE2_PENALTY"} "$@"
