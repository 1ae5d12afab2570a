"""Speed: what the library takes, beside what a user would otherwise write, in the same run on the same cores."""
