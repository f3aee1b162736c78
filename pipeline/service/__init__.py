"""Search over HTTP, for programs and for people: ``permafrost serve``.

::

    app          the routes                      limits       how large and how long
    batching     requests share batches          guard        who may ask, and what a browser may do
    gallery      heads, filters, searches        snapshots    what is opened; a newer one takes the place of the old
    metrics, server
"""
