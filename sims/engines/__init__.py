"""What trains: ensembles of many members in one program, descent to a minimum, gradient flow, heads on scenarios."""
