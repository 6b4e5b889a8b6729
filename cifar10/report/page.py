"""The page as HTML text: self-contained, without scripts, light or dark as the reader's system is."""

import pathlib

import jinja2
import numpy as np
from markupsafe import Markup

from cifar10.report import classes, gammas, headline, layers, stages, tables
from cifar10.report.drawing import data_uri

TEMPLATE = "page.html"
SECTIONS = ("layers", "classes", "training", "gammas")  # Of each chain, which have pictures.


def page(chains, comparison, pictures_of_chains):
  """The page as text.

  Args:
    chains: `facts.Chain`s.
    comparison: `drawing.Picture`s of all chains.
    pictures_of_chains: for each chain, its `Picture`s.
  """
  several = len(chains) > 1
  loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
  environment = jinja2.Environment(
    loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  return environment.get_template(TEMPLATE).render(
    title=f"{len(chains)} chains compared" if several else chains[0].name,
    several=several,
    compared=headline.compared(chains) if several else "",
    summary=tables.chains(chains) if several else None,
    versions=tables.versions(chains),
    comparison=list(map(_shown, comparison)),
    chains=[_chain(chain, pictures) for chain, pictures in zip(chains, pictures_of_chains)],
  )


def _chain(chain, pictures):
  """What the template shows of a chain, a dict."""
  last, widths = headline.last_of(chain), layers.widths(chain)
  missing = [f"Version {version.number}: {text}" for version in chain.versions for text in version.missing]
  return {
    "name": chain.name,
    "sentence": headline.sentence(chain),
    "comparison": headline.comparison(chain),
    "figures": headline.figures(chain),
    "facts": headline.facts(chain),
    "missing": chain.missing + missing,
    "layers": tables.layer_widths(widths),
    "has_lost_channels": any(layer.after < layer.before for layer in widths),
    "classes": tables.by_class(chain),
    "predictions": _predictions(last) if last.predictions else None,
    "stages": tables.stages(chain),
    "commands": [stages.command(version.stage) for version in chain.versions if version.stage],
    "exports": tables.exports(chain),
    "gammas": {version.number: gammas.at_zero(version) for version in chain.versions if version.gammas},
    "pictures": {section: [_shown(each) for each in pictures if each.section == section] for section in SECTIONS},
  }


def _shown(picture):
  return {"svg": Markup(picture.svg), "caption": picture.caption}


def _predictions(version):
  """The version's name, and its predictions in two groups, each a title and a list of dicts."""
  predictions, names = version.predictions, classes.class_names(version)
  of_each = zip(predictions.images, predictions.labels, predictions.classes, predictions.probabilities)
  shown = [
    {"image": data_uri(image), "right": names[label], "predicted": names[guess], "probability": f"{probability:.2f}"}
    for image, label, guess, probability in of_each
  ]
  first = len(np.unique(predictions.labels))
  return {
    "version": f"{version.number} {version.name}".strip(),
    "groups": [("The first test image of each class", shown[:first]), ("The surest mistakes", shown[first:])],
  }
