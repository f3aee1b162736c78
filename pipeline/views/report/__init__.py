"""``permafrost report``: what a run measured, as one HTML file that loads nothing.

::

    run file --stages 1 to 3, as they are on disk--> measured --> leaderboard, curves, map, queries, origins --> page

Nothing is trained or extracted here. Scores that are on disk and still valid are read, others are computed.
"""
