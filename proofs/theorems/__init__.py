"""The theorems, one a file: statement, symbols, hypotheses, lemmas, values, controls."""
