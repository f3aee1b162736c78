"""The page: its contents through the templates in ``presets/report``."""

from __future__ import annotations

from pipeline.views.pages import render
from pipeline.views.report.contents import Contents
from pipeline.views.report.queries import LISTS
from stages.retrieval.scores import MEAN

_TIED = 6  # names in a sentence


def page(contents: Contents) -> str:
    """The whole page as HTML, which loads nothing from elsewhere."""
    lists = {of.list for of in contents.queries}
    return render(
        "report/page.html",
        of=contents,
        place="in the mean of the domains" if contents.domain == MEAN else "over all queries",
        lists={name: said for name, said in LISTS.items() if name in lists},
        query_domains=sorted({of.domain for of in contents.queries if of.domain}),
        tied=[row.names[0] for row in contents.board.rows if row.tied][:_TIED],
        map_facts=[[image.label, image.domain, image.key] for image in contents.map.images] if contents.map else [],
    )
