"""Reads the page of the report."""

import html.parser
import json

from helpers import directory, write_record

from cifar10.config import ReportConfig
from cifar10.report import report
from cifar10.report.facts import read_chain
from cifar10.report.page import page

VOID = {"meta", "br", "img", "link"}


class Page(html.parser.HTMLParser):
  """The tags, attributes and text of a page, whose tags must all be closed in order; its tables as rows of cells."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.texts, self.elements, self.rows = [], [], [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes
    self.elements.append((tag, dict(attributes)))
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append([])
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, text):
    if text.strip():
      self.texts.append(" ".join(text.split()))
      if {"td", "th"} & set(self.open):
        self.rows[-1][-1].append(self.texts[-1])

  def row(self, *names):
    """The cells of the first row that begins with some texts, each a list of texts."""
    return next(row for row in self.rows if [cell[0] for cell in row[: len(names)]] == list(names))


def written(*chains, output_dir=None):
  """The directory of the report on some chains, and its page."""
  report(ReportConfig(tuple(map(str, chains)), output_dir and str(output_dir)))
  directory = output_dir or chains[0].with_name(chains[0].name + ("_report" if len(chains) == 1 else "_comparison"))
  return directory, Page((directory / "index.html").read_text())


def said(chain):
  """The text of the page on one chain, in one line, without its pictures, which take most of the time."""
  text = page([read_chain(chain, "run")], [], [[]])
  return " ".join(Page(text).texts)


def rewrite_stage(chain, number, change):
  """Writes a version's stage.json, and its backup, as `change` changes it, with a true checksum."""
  stage = json.loads((directory(chain, number) / "stage.json").read_text())
  del stage["sha256"]
  change(stage)
  for name in ("stage.json", "stage.json.old"):
    write_record(directory(chain, number) / name, stage)


def append(path, record):
  with open(path, "a") as file:
    file.write(json.dumps(record) + "\n")
