"""What the experiments share: command line, rules, sources of heads, gallery."""
