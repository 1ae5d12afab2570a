"""When and why the singular vectors of an attention head are the features a model uses."""
