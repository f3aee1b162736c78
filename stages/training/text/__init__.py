"""Text for any backbone: two linear maps, of features and of encoded sentences, into one space; see ``fit.py``."""
