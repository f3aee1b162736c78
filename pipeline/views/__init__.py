"""What is shown: text, pages, charts."""
