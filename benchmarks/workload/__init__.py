"""What a fleet is asked, and how well it answered: shared by the live load and the simulator."""
