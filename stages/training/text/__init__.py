"""Text for any backbone, in closed form.

::

    label, attributes --sentences.py--> sentences --sentence encoder--> (N, 384) --text map--\
                                                                                              shared space (E)
    image --backbone--> feature (N, D) ---------------------------------------- image map ---/

Both maps are fitted by ``fit.py`` (regularised canonical correlation); ``network.py`` is the head that has them.
"""
