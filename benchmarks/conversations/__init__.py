"""What conversations cost and take: ``torpor bench conversations``.

Two parts, in one run. ``records``: many of them in the store, and pages of them. ``turns``: one
that hibernates, and its next turn.
"""
