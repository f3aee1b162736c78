"""``permafrost report``: what a run measured, as one HTML file that loads nothing.

::

    run file --stages 1 to 3, as they are on disk--> measured --> standings, curves, similarities, map, queries --> page

Nothing is trained or extracted here; scores that are on disk and still true are read, others are computed.
"""
