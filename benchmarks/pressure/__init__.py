"""``torpor bench pressure``: how soon the death of an engine is noticed, and how long a model waits
behind a long answer that is frozen for it.

On a fleet of its own, the engines real or without a model.
"""
