"""One card for each system, in a file of its slug. See `pomona.evidence.card`."""
