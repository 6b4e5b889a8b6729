# Settings that the other scripts share; they source this file and then stand in the repository's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"

networks=$(python -c 'from cifar10.config import NETWORKS; print(*NETWORKS)')
default_network=${networks%% *}
MODEL="${MODEL:-$default_network}"
case " $networks " in
  *" $MODEL "*) ;;
  *)
    wrong="MODEL is '$MODEL'; expected ${networks// / or }."
    [ -z "${usage:-}" ] || wrong="${usage/NETWORKS/${networks// /|}}"
    echo "$wrong" >&2
    exit 2 ;;
esac
default_train_dir=checkpoints/cifar10_train
[ "$MODEL" = "$default_network" ] || default_train_dir="checkpoints/cifar10_train_$MODEL"
TRAIN_DIR="${TRAIN_DIR:-$default_train_dir}"
DATASET="${DATASET:-}" # By default the chain's own, or cifar10 for a new one.
RECIPE="${RECIPE:-paper}"
export MODEL TRAIN_DIR DATASET RECIPE

# train VERSION [flags]: ends the script with the stage that trains the version, as the recipe has it but for the flags.
train() {
  local version=$1 flags
  shift
  flags=$(python -m cifar10.recipes "$RECIPE" "$version")
  # shellcheck disable=SC2086  # Flags of a recipe have no spaces.
  exec cifar10-train --model "$MODEL" ${DATASET:+--dataset "$DATASET"} --train_dir "$TRAIN_DIR" --checkpoint_version "$version" \
    $flags "$@"
}

# evaluate VERSION: the network that the version starts from; for version 0, which has none, the trained one.
evaluate() {
  local iter=0
  [ "$1" != 0 ] || iter=-1
  cifar10-eval --checkpoint_version "$1" --checkpoint_iter "$iter" --checkpoint_dir "$TRAIN_DIR" \
    ${DATASET:+--dataset "$DATASET"}
}
