"""Scenarios and journals played on the simulator, under torpor's policy and under others."""
