"""``python -m pipeline`` is the command ``permafrost``."""

from pipeline.cli import main

if __name__ == "__main__":  # drawing starts processes that import this file
    main()
