"""Whether any head of a run is surely better than the feature that it is made from."""

from __future__ import annotations

from pipeline.config import RunConfig
from pipeline.score_rows import RAW
from stages.analysis import paired_difference
from stages.retrieval.query_values import QueryValues


def _to_try(config: RunConfig) -> str:
    """What this run does not do yet."""
    ideas = []
    if not any(getattr(head.recipe.start, "kind", "") == "discriminant" for head in config.heads):
        ideas.append('recipe = "default"')
    networks = [backbone for backbone in config.backbones if backbone.kind != "precomputed"]
    if networks and not any(getattr(backbone, "blocks", ()) for backbone in networks):
        ideas.append("blocks = [-2, -1]")
    if networks and all(getattr(backbone.preprocess, "views", None) is None for backbone in networks):
        ideas.append("mirror images (preprocess.views)")
    ideas.append("a stronger backbone, or more classes to train on")
    return f"To try: {', '.join(ideas)}. `--head raw` searches with the feature itself."


def no_surer_head(config: RunConfig, values: QueryValues) -> str | None:
    """What to say where no head of the run is surely above the best raw feature; None where one is.

    By the first metric, query by query: surely above is where the 95 % interval of the difference is above 0.
    """
    heads = {head.name for head in config.heads}
    first = {entry: values.of(*entry)[0] for entry in values.heads() if entry[1] == RAW or entry[1] in heads}
    means = {entry: next(iter(scores.per_query.values())).mean() for entry, scores in first.items()}
    raws = [entry for entry in first if entry[1] == RAW]
    trained = [entry for entry in first if entry[1] != RAW]
    if not raws or not trained:
        return None
    raw = max(raws, key=lambda entry: means[entry])
    gains = {entry: paired_difference(first[entry], first[raw])[0] for entry in trained}
    if any(gain.low > 0 for gain in gains.values()):
        return None
    best = max(trained, key=lambda entry: gains[entry].value)
    gain = gains[best]
    interval = f"{gain.value:+.3f} {gain.metric} (95 % interval {gain.low:+.3f} to {gain.high:+.3f})"
    return (
        f"no head is surely above the raw feature of {raw[0]}: {best[1]} on {best[0]} has {interval}. {_to_try(config)}"
    )
