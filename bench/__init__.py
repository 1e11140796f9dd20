"""Speed against named peers: one file a question, each run interleaved with its peer.

Absolute numbers move with the machine and the hour, ratios much less: every question alternates the two
sides in short rounds, and reports the median of the rounds and the median of the rounds' ratios.
"""
