"""What is in a dataset: its numbers, what follows from them, and a page that shows both."""
