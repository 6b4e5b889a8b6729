import pytest

from cifar10.version.files import append_line, atomic_file, unfinished, workplace


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"old")
  with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
    file.write(b"half")
    raise ZeroDivisionError
  assert [p.name for p in tmp_path.iterdir()] == ["file"]
  assert path.read_bytes() == b"old"
  with atomic_file(path) as file:
    file.write(b"new")
  assert path.read_bytes() == b"new"


def test_an_atomic_file_is_not_written_through_a_link_laid_at_its_temporary_name(tmp_path):
  (tmp_path / "mine").write_text("mine")
  unfinished(tmp_path / "file").symlink_to(tmp_path / "mine")
  with atomic_file(tmp_path / "file") as file:
    file.write(b"new")
  assert (tmp_path / "mine").read_text() == "mine"
  assert (tmp_path / "file").read_bytes() == b"new"
  assert not (tmp_path / "file").is_symlink()


def test_a_workplace_begins_empty_and_leaves_nothing(tmp_path):
  path = tmp_path / "made" / "directory"
  unfinished(path).mkdir(parents=True)
  (unfinished(path) / "left by a killed process").touch()
  with pytest.raises(ZeroDivisionError), workplace(path) as place:
    assert not list(place.iterdir())
    (place / "file").touch()
    raise ZeroDivisionError
  assert not list(path.parent.iterdir())


def test_a_line_that_was_cut_stays_a_line_of_its_own(tmp_path):
  for line in ("one", "two"):
    append_line(tmp_path / "lines", line)
  with open(tmp_path / "lines", "a") as file:
    file.write("cu")
  append_line(tmp_path / "lines", "three")
  assert (tmp_path / "lines").read_text() == "one\ntwo\ncu\nthree\n"
