"""Open-loop load on a live fleet, over HTTP."""
