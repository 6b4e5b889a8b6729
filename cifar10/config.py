"""The settings of the commands, with their defaults; apart from the rest, so that --help needs no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The settings of one stage; `cifar10-train --help` says what each is."""

  checkpoint_version: int = 0
  train_dir: str = "checkpoints/cifar10_train"
  model: str | None = None
  dataset: str = "cifar10"
  data_dir: str | None = None
  max_steps: int = 100000
  l1_penalty: float = 0.005
  learning_rate: float = 0.1
  batch_size: int = 125
  weight_decay: float | None = None
  seed: int | None = None
  precision: str | None = None
  use_fp16: bool = False
  distribution_strategy: str = "one_device"
  num_replicas: int | None = None
  sync_batch_norm: bool = False
  jit_compile: bool | None = None
  log_frequency: int = 100
  save_interval_secs: float = 600
  stop_at_plateau: bool = False
  target_sparsity: float | None = None
  penalty_doubling_steps: int = 5000
  squeeze_model: bool = True
  exact_squeeze: bool = True
  round_channels_to: int = 1
  recalibration_batches: int = 0
  overwrite: bool = False
  deterministic_ops: bool = False
  log_device_placement: bool = False


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """The settings of an evaluation; `cifar10-eval --help` says what each is."""

  checkpoint_version: int = 1
  checkpoint_dir: str = "checkpoints/cifar10_train"
  checkpoint_iter: int = -1
  model: str | None = None
  dataset: str = "cifar10"
  data_dir: str | None = None
  eval_data: str = "test"
  num_examples: int = 10000
  batch_size: int = 125
  run_once: bool = True
  eval_interval_secs: float = 300
  eval_dir: str = "checkpoints/cifar10_eval"


@dataclasses.dataclass(frozen=True)
class ExportConfig:
  """The settings of an export; `cifar10-export --help` says what each is."""

  checkpoint_version: int = 1
  checkpoint_dir: str = "checkpoints/cifar10_train"
  checkpoint_iter: int = -1
  formats: tuple = ("saved_model", "litert", "litert_int8", "onnx")
  input: str = "standardized"
  softmax: bool = False
  dataset: str = "cifar10"
  data_dir: str | None = None
  output_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class PredictConfig:
  """The settings of predictions, and the image files; `cifar10-predict --help` says what each is."""

  images: tuple = ()
  checkpoint_version: int = 1
  checkpoint_dir: str = "checkpoints/cifar10_train"
  checkpoint_iter: int = -1
  dataset: str = "cifar10"
  top: int = 3


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """The settings of a report; `cifar10-report --help` says what each is."""

  train_dir: tuple[str, ...] = ("checkpoints/cifar10_train",)
  output_dir: str | None = None
