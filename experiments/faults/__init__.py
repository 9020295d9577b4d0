"""Every fault on the list, really injected: python -m experiments.faults."""
