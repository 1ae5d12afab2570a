"""What is trained: toys of features and one head, tasks, transformers, and what is read of them."""
