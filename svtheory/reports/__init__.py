"""What a run leaves behind: run folder, page, tables, plot style, and the sentences of a command line."""
