import pytest
from batches import RECORDS

from cifar10.datasets import binary_files


@pytest.fixture
def small_files(monkeypatch):
  """Data files of 20 images."""
  monkeypatch.setattr(binary_files, "RECORDS_PER_FILE", RECORDS)
