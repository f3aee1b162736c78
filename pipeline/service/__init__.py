"""Search over HTTP, for programs and for people: ``permafrost serve``.

::

    app          the routes                      limits       how large and how long
    batching     requests share batches          guard        who may ask, and what a browser may do
    gallery      heads, filters, searches        snapshots    a newer gallery takes the place of the old one
    opening      a bundle or a run               thumbnails, page, metrics, server
"""
