"""What the drawn catalogue is drawn with: outlines of products, surfaces, and views with light and clutter."""
