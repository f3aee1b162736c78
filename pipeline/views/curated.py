"""What ``permafrost curate`` retains and drops, as a table of counts."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.views.tables import aligned
from stages.curation.tables import Tally


def curated_text(by_domain: Mapping[str | None, Tally], total: Tally) -> str:
    """The counts with a column for each domain: images and classes before and after, and those dropped by reason."""
    tallies = [*by_domain.values(), total] if len(by_domain) > 1 else [total]
    names = [*(domain or "-" for domain in by_domain), "all"] if len(by_domain) > 1 else ["all"]
    table = [
        ["", *names],
        ["training images", *(f"{counts.images:,}" for counts in tallies)],
        *(
            [
                f"  {reason}",
                *(f"-{counts.dropped[reason]:,}" if reason in counts.dropped else "0" for counts in tallies),
            ]
            for reason in total.dropped
        ),
        ["images kept", *(f"{counts.images_kept:,}" for counts in tallies)],
        ["classes", *(f"{counts.classes:,}" for counts in tallies)],
        ["classes kept", *(f"{counts.classes_kept:,}" for counts in tallies)],
    ]
    return "\n".join(aligned(table, texts=1))
