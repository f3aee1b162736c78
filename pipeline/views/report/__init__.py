"""What ``permafrost report`` shows: measured --> leaderboard, curves, images, origins, which its templates lay out."""
