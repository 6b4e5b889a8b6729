# Settings that the other scripts share; they source this file and then stand in the repository's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"

MODEL="${MODEL:-resnet20}"
case "$MODEL" in
  resnet20) default_train_dir=checkpoints/cifar10_train ;;
  cnn4) default_train_dir=checkpoints/cifar10_train_cnn4 ;;
  *) echo "MODEL is '$MODEL'; expected resnet20 or cnn4." >&2; exit 2 ;;
esac
TRAIN_DIR="${TRAIN_DIR:-$default_train_dir}"
DATASET="${DATASET:-cifar10}"
export MODEL TRAIN_DIR DATASET

# evaluate VERSION: the network that the version starts from; for version 0, which has none, the trained one.
evaluate() {
  local iter=0
  [ "$1" != 0 ] || iter=-1
  cifar10-eval --checkpoint_version "$1" --checkpoint_iter "$iter" --checkpoint_dir "$TRAIN_DIR" \
    --dataset "$DATASET"
}
