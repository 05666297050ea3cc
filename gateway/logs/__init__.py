"""What is logged: a line for each request on standard output, all else on standard error."""
