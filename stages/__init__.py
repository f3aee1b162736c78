"""The three stages: extraction, training, retrieval. They never import each other; they meet in the cache."""
