"""Chaos: a live fleet is asked while its parts are killed, stopped and slowed.

Every request must get the answer that was recorded before the first fault, or an error that says
it may be asked again; none may hang, none may get anything else, memory must stay flat, and
nothing may be left of the fleet when it has ended.
"""
