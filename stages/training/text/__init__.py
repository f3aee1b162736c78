"""Text for any backbone, in closed form.

::

    label, attributes --sentences.py--> sentences --sentence encoder--> (N, 384) --text map--\
                                                                                              shared space (E)
    image --backbone--> feature (N, D) ---------------------------------------- image map ---/

``fit.py`` fits both maps (regularised canonical correlation) and has the head.
"""
