#!/usr/bin/env bash
# Reproduces the experiment: ./scripts/reproduce.sh [network] [further flags of cifar10-train].
# All three stages of a recipe, by default the schedule of the paper's own program, an evaluation after each, and a
# table. Stops at the first failure; run again, it goes on where it stopped. Environment variables: RECIPE,
# STAGE1_STEPS, STAGE2_STEPS, STAGE3_STEPS, STAGE1_PENALTY, STAGE2_PENALTY, STAGE3_LEARNING_RATE, CIFAR10_DATA_DIR,
# TRAIN_DIR, DATASET.
usage=
case "${1:-}" in
  "" | --*) ;;
  *) export MODEL="$1"; usage="usage: ./scripts/reproduce.sh [NETWORKS] [further flags of cifar10-train]"; shift ;;
esac
for flag in "$@"; do
  case "${flag#--}" in
    -* | model* | dataset* | data_dir* | train_dir* | checkpoint_version* | help*)
      echo "$flag goes by argument or environment here: [network], DATASET, CIFAR10_DATA_DIR, TRAIN_DIR." >&2
      exit 2 ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

scripts/stage1_warm_up.sh "$@"
evaluate 0
evaluate 1
scripts/stage2_sparsify.sh "$@"
evaluate 2
scripts/stage3_fine_tune.sh "$@"
evaluate 3
cifar10-table "$TRAIN_DIR"
