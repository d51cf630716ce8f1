"""What sleeping and waking cost on this machine, against starting anew; ``measuring`` does it.

The fleet is measured from outside, as a client and an administrator see it: orders and requests
over HTTP, and what its engines report on ``GET /fleet/events``. With a configuration the fleet is
its own (``own_fleet``): its idle ladder and prefetching are off, so that nobody but the benchmark
puts a model to sleep.
"""
