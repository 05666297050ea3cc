"""What is made of an exchange, one file per kind of answer."""
