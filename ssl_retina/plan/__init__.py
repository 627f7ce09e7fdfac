"""What a run would take before anything starts: memory, FLOPs, hours, energy, cost."""
