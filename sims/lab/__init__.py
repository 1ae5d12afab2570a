"""What the experiments share: command line, run folder, ensemble trainer, models, plot style."""
